// flash_attention_decode: the arithmetic of a tile, and of the end of a split.
#pragma once

#include "flash_attention_decode_loader.cuh"
#include "matmul_unpack.cuh"

namespace crosscurrent::cuda::decode {

// Four 8-bit elements of a register to bf16, exactly: bytes 0 and 2, and bytes 1 and 3.
template <KvType kType>
__device__ __forceinline__ void widen(uint32_t word, uint32_t& even, uint32_t& odd) {
  constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
  if constexpr (kType == KvType::i8) {
    // 128 + the low seven bits is 0x4300 | them; 128 or, where the sign is set, 256 is 0x4300 | sign
    const auto one = [](uint32_t w) {
      return subtract_bf16(logic3<kAndOr>(w, 0x007F007F, 0x43004300),
                           logic3<kAndOr>(w, 0x00800080, 0x43004300));
    };
    even = one(word);
    odd = one(word >> 8);
  } else {
    // e4m3 in the place of bf16's exponent and fraction is 2^-120 of its value, subnormals too
    constexpr uint32_t kUnit = 0x7B807B80;
    even = multiply_bf16(logic3<kAndOr>(word << 4, 0x07F007F0, (word << 8) & 0x80008000), kUnit);
    odd = multiply_bf16(logic3<kAndOr>(word >> 4, 0x07F007F0, word & 0x80008000), kUnit);
  }
}

// The queries of a unit and their running softmax, in the fragments of mma m16n8k16: lane l has rows l / 4
// and l / 4 + 8.
//
// With 8-bit elements a lane gets four neighbours where the mma wants two and two: columns of q and rows of
// the product are permuted within 16 to suit, which neither the scores nor y can see.
template <int kDim, KvType kType>
class Rows {
  static constexpr bool kIsByte = kType != KvType::bf16;

 public:
  // With 256 columns, or 128 and a third block, the queries would not fit the registers beside the sums: they
  // lie in `merge`, which is free between the ends of units.
  static constexpr bool kSharesQueries = kDim == 256 || (kDim == 128 && kIsByte);

  __device__ Rows(const Problem& p, float* merge)
      : p_(p), shared_q_(reinterpret_cast<uint4*>(merge) + threadIdx.x % 32) {}

  __device__ void begin(const Slot& slot) {
    max_[0] = max_[1] = -INFINITY;
    total_[0] = total_[1] = 0;
#pragma unroll
    for (auto& column : sum_) column[0] = column[1] = column[2] = column[3] = 0;
    const bool known = slot.seq == seq_ && slot.head == head_ && slot.row_tile == row_tile_;
    if (known && !kSharesQueries) return;  // the next split of the same queries
    seq_ = slot.seq;
    head_ = slot.head;
    row_tile_ = slot.row_tile;
    load();
  }

  __device__ void add(const Slot& slot, const TileBuffers& tile) {
    const int lane = threadIdx.x % 32;
    // of the keys that this lane has scores of
    float2 key_scale[2], value_scale[2];
    if constexpr (kIsByte) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        key_scale[n] = *reinterpret_cast<const float2*>(tile.scales + 8 * n + 2 * (lane % 4));
        value_scale[n] = *reinterpret_cast<const float2*>(tile.scales + kDecodeTile + 8 * n + 2 * (lane % 4));
      }
    }
    // Scores of 16 keys; two chains each, so that one mma need not wait for another.
    float s[2][4] = {}, odd[2][4] = {};
    [[maybe_unused]] uint32_t raw[4];
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t b[4];
      if constexpr (kIsByte) {
        // two steps at a time: 8 keys x 16 bytes a matrix
        if (k % 2 == 0) load_matrix_x4(raw, tile.keys + place<kDim, kType>(lane % 16, k + lane / 16));
        widen<kType>(raw[2 * (k % 2)], b[0], b[1]);
        widen<kType>(raw[2 * (k % 2) + 1], b[2], b[3]);
      } else {
        load_matrix_x4(b, tile.keys + place<kDim, kType>(lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      }
      float (&d)[2][4] = k % 2 == 0 ? s : odd;
      if constexpr (kSharesQueries) {
        const uint4 v = shared_q_[32 * k];
        const uint32_t q[4] = {v.x, v.y, v.z, v.w};
        mma_bf16(d[0], q, b[0], b[1]);
        mma_bf16(d[1], q, b[2], b[3]);
      } else {
        mma_bf16(d[0], q_[k], b[0], b[1]);
        mma_bf16(d[1], q_[k], b[2], b[3]);
      }
    }
    const bool whole = slot.node < 0 && slot.start + kDecodeTile - 1 <= min(position_[0], position_[1]) &&
                       slot.start >= max(low_[0], low_[1]);
    const bool masks = __any_sync(kAllLanes, !whole);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float score = (s[n][i] + odd[n][i]) * p_.scale_log2;
        if constexpr (kIsByte) score *= i % 2 == 0 ? key_scale[n].x : key_scale[n].y;
        if (p_.args.softcap > 0)
          score = p_.args.softcap * kLog2E * (1.0f - 2.0f / (exp2_fast(2 * kLog2E * score) + 1.0f));
        if (masks) {
          const int key = slot.start + 8 * n + 2 * (lane % 4) + i % 2, half = i / 2;
          const bool seen =
              key <= position_[half] && key >= low_[half] && (slot.node < 0 || slot.node == node_[half]);
          if (!seen) score = -INFINITY;
        }
        s[n][i] = score;
      }
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most =
          fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
      most = fmaxf(most, max_[half]);
      shrink[half] = weight_of(max_[half], most);
      max_[half] = most;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) s[n][i] = weight_of(s[n][i], most);
      const float added = __fadd_rn(__fadd_rn(s[0][2 * half], s[0][2 * half + 1]),
                                    __fadd_rn(s[1][2 * half], s[1][2 * half + 1]));
      total_[half] = __fmaf_rn(total_[half], shrink[half], added);
    }
    if (__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (auto& column : sum_) {
        column[0] *= shrink[0];
        column[1] *= shrink[0];
        column[2] *= shrink[1];
        column[3] *= shrink[1];
      }
    }
    if constexpr (kIsByte) {
#pragma unroll
      for (int n = 0; n < 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] *= i % 2 == 0 ? value_scale[n].x : value_scale[n].y;
      }
    }
    const uint32_t a[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]),
                           pack_bf16(s[1][0], s[1][1]), pack_bf16(s[1][2], s[1][3])};
    if constexpr (kIsByte) {
#pragma unroll
      for (int n = 0; n < kDim / 8; n += 4) {
        // 8 keys x 16 columns a matrix: keys 0 … 7 and 8 … 15 of two times 16 columns
        load_matrix_transposed_x4(raw, tile.values + place<kDim, kType>(lane % 16, n / 2 + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          uint32_t even[2], odd_columns[2];
          widen<kType>(raw[i], even[0], odd_columns[0]);
          widen<kType>(raw[i + 1], even[1], odd_columns[1]);
          mma_bf16(sum_[n + i], a, even[0], even[1]);
          mma_bf16(sum_[n + i + 1], a, odd_columns[0], odd_columns[1]);
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < kDim / 8; n += 2) {
        uint32_t b[4];
        load_matrix_transposed_x4(b, tile.values + place<kDim, kType>(lane % 16, n + lane / 16));
        mma_bf16(sum_[n], a, b[0], b[1]);
        mma_bf16(sum_[n + 1], a, b[2], b[3]);
      }
    }
  }

  // All warps of the block: their parts in order of warps, to the partial results.
  __device__ void end(const Slot& slot, float2 (*stats)[kDecodeRows], float* merge) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int rows = rows_;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = total_[half];
      total = __fadd_rn(total, __shfl_xor_sync(kAllLanes, total, 1));
      total = __fadd_rn(total, __shfl_xor_sync(kAllLanes, total, 2));
      if (lane % 4 == 0) stats[warp][lane / 4 + 8 * half] = make_float2(max_[half], total);
    }
    __syncthreads();
    const auto partial = [&](int row) {
      const int at = slot.row_tile * kDecodeRows + row;
      return p_.partials.at(first_ + at / p_.group, p_.args.heads, slot.head * p_.group + at % p_.group,
                            slot.split);
    };
    const auto largest = [&](int row) {
      float most = stats[0][row].x;
      for (int i = 1; i < kDecodeWarps; ++i) most = fmaxf(most, stats[i][row].x);
      return most;
    };
    if (static_cast<int>(threadIdx.x) < rows) {
      const int row = threadIdx.x;
      const float most = largest(row);
      float total = 0;
      for (int i = 0; i < kDecodeWarps; ++i)
        total = __fmaf_rn(stats[i][row].y, weight_of(stats[i][row].x, most), total);
      p_.partials.stats[partial(row)] = make_float2(most, total);
    }
    // Eight rows at a time; columns are swizzled, so that four rows meet all banks.
    const auto column_of = [](int row, int column) { return row * kDim + (column ^ (row % 4 * 8)); };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (8 * half >= rows) break;
      const int row = lane / 4;
      const float factor = weight_of(max_[half], largest(row + 8 * half));
      float* mine = merge + warp * 8 * kDim;
      if constexpr (kIsByte) {
#pragma unroll
        for (int n = 0; n < kDim / 8; n += 2) {
          const float *even = sum_[n] + 2 * half, *odd = sum_[n + 1] + 2 * half;
          *reinterpret_cast<float4*>(mine + column_of(row, 8 * n + 4 * (lane % 4))) =
              make_float4(even[0] * factor, odd[0] * factor, even[1] * factor, odd[1] * factor);
        }
      } else {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          *reinterpret_cast<float2*>(mine + column_of(row, 8 * n + 2 * (lane % 4))) =
              make_float2(sum_[n][2 * half] * factor, sum_[n][2 * half + 1] * factor);
      }
      __syncthreads();
      const int here = min(8, rows - 8 * half);
      for (int i = threadIdx.x; i < here * (kDim / 4); i += kDecodeThreads) {
        const int r = i / (kDim / 4), column = i % (kDim / 4) * 4;
        float4 total = *reinterpret_cast<const float4*>(merge + column_of(r, column));
        for (int w = 1; w < kDecodeWarps; ++w) {
          const float4 part = *reinterpret_cast<const float4*>(merge + w * 8 * kDim + column_of(r, column));
          total.x += part.x;
          total.y += part.y;
          total.z += part.z;
          total.w += part.w;
        }
        *reinterpret_cast<float4*>(p_.partials.sum + partial(8 * half + r) * kDim + column) = total;
      }
      __syncthreads();
    }
  }

 private:
  __device__ void load() {
    const AttentionSequences& s = p_.args.sequences;
    const int lane = threadIdx.x % 32;
    first_ = s.first[seq_];
    const int count = (s.first[seq_ + 1] - first_) * p_.group;
    rows_ = min(kDecodeRows, count - row_tile_ * kDecodeRows);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_tile_ * kDecodeRows + lane / 4 + 8 * half;
      const bool exists = row < count;
      node_[half] = exists ? first_ + row / p_.group : -1;
      // rows that do not exist see every key of zeros
      position_[half] = exists ? s.position[node_[half]] : INT_MAX;
      low_[half] = exists ? lowest_key(position_[half], p_.args.window) : 0;
      const int64_t head = head_ * p_.group + row % p_.group;
      const bf16* q = p_.args.q + (exists ? node_[half] * p_.args.q_stride + head * kDim : 0);
      q += (kIsByte ? 4 : 2) * (lane % 4);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int k = kSharesQueries ? threadIdx.x / 32 * kSteps + i : i;
        const auto* at = reinterpret_cast<const uint32_t*>(q + 16 * k);
        const uint32_t low = exists ? at[0] : 0, high = exists ? at[kIsByte ? 1 : 4] : 0;
        q_[i][half] = kIsByte ? __byte_perm(low, high, 0x5410) : low;
        q_[i][half + 2] = kIsByte ? __byte_perm(low, high, 0x7632) : high;
      }
    }
    if constexpr (kSharesQueries) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
        shared_q_[(threadIdx.x / 32 * kSteps + i) * 32] = make_uint4(q_[i][0], q_[i][1], q_[i][2], q_[i][3]);
      __syncthreads();
    }
  }

  const Problem& p_;
  int seq_ = -1, head_ = 0, row_tile_ = 0, first_ = 0, rows_ = 0;
  int node_[2], position_[2], low_[2];
  float max_[2], total_[2];
  static constexpr int kSteps = kDim / 16 / (kSharesQueries ? kDecodeWarps : 1);
  uint4* shared_q_;
  uint32_t q_[kSteps][4];
  float sum_[kDim / 8][4];
};

}  // namespace crosscurrent::cuda::decode
