// flash_attention_prefill: what its kernels share. Which rows a tile has, which keys it sees, the softmax of
// two rows a lane.
#pragma once

#include "flash_attention_decode.cuh"
#include "flash_attention_prefill.h"

namespace crosscurrent::cuda::prefill {

constexpr unsigned kAllLanes = 0xFFFFFFFF;

// On the special-function unit; relative error 2^-11 (PTX ISA, tanh.approx.f32).
__device__ __forceinline__ float tanh_fast(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Scores leave the tensor cores as q k. Plain ones meet `scale_log2` = scale · log2 e in the exponent. Others
// (softcap, ALiBi, a scale that is not positive) are finished first, in units of log2.
struct Scores {
  float scale_log2;
  float cap_scale, cap_log2;  // softcap: cap_log2 tanh(q k · cap_scale); or 0
};

// Of a tile: `count` rows of the step from `row` on.
struct TileRows {
  int seq, head, row, count;
  int position;  // of the first row
  int end;       // keys of the sequence
};

// Finds the tiles of a step, one whole warp at a time, for rising numbers. Tiles of a sequence are
// neighbours; within it, those of a section of kv heads; within that, late rows, which see most keys, come
// first.
template <int kRows>
class Tiles {
 public:
  __device__ Tiles(const AttentionSequences& s, int heads, int kv_heads, int section_keys)
      : s_(s), heads_(heads), kv_heads_(kv_heads), section_keys_(section_keys) {
    load(0, 0);
  }

  // All tiles of the step; before the first `find`.
  __device__ int count() {
    const int total = advance(INT32_MAX);
    if (chunk_ > 0) load(0, 0);
    return total;
  }

  // False: the step has no such tile.
  __device__ bool find(int tile, TileRows& rows) {
    if (advance(tile) <= tile) return false;
    const int lane = __ffs(__ballot_sync(kAllLanes, tile < until_)) - 1;
    const int seq = chunk_ + lane, first = s_.first[seq], nodes = s_.first[seq + 1] - first;
    const int base = committed_tokens(s_, seq);
    // unsigned: divisions take fewer registers
    const unsigned row_tiles = static_cast<unsigned>(nodes + kRows - 1) / kRows;
    const unsigned heads = static_cast<unsigned>(heads_), kv_heads = static_cast<unsigned>(kv_heads_);
    unsigned at = static_cast<unsigned>(tile - __shfl_sync(kAllLanes, until_, lane)) + row_tiles * heads;
    const unsigned keys = static_cast<unsigned>(base + nodes);
    const unsigned wide =
        heads / kv_heads * min(max(static_cast<unsigned>(section_keys_) / keys, 1u), kv_heads);
    const unsigned first_head = at / (wide * row_tiles) * wide;  // of the section
    at -= first_head * row_tiles;
    const unsigned width = min(wide, heads - first_head);
    const auto row = static_cast<int>((row_tiles - 1 - at / width) * kRows);
    rows = {seq,         static_cast<int>(first_head + at % width),
            first + row, min(kRows, nodes - row),
            base + row,  base + nodes};
    return true;
  }

 private:
  // To the 32 sequences that hold a tile, or the last ones. Tiles until their end.
  __device__ int advance(int tile) {
    int last = __shfl_sync(kAllLanes, until_, 31);
#pragma unroll 1
    while (tile >= last && chunk_ + 32 < s_.seqs) {
      load(chunk_ + 32, last);
      last = __shfl_sync(kAllLanes, until_, 31);
    }
    return last;
  }

  __device__ void load(int chunk, int before) {
    const int lane = static_cast<int>(threadIdx.x) % 32, seq = chunk + lane;
    const int nodes = seq < s_.seqs ? s_.first[seq + 1] - s_.first[seq] : 0;
    chunk_ = chunk;
    until_ = (nodes + kRows - 1) / kRows * heads_;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(kAllLanes, until_, step);
      if (lane >= step) until_ += other;
    }
    until_ += before;
  }

  const AttentionSequences& s_;
  const int heads_, kv_heads_, section_keys_;
  int chunk_;  // the sequence of lane 0
  int until_;  // tiles of the step up to and with the lane's sequence
};

// Blocks of keys that a tile of `rows` rows takes, from the last down to `first`: [whole_begin, whole_end)
// are seen by every row, the others masked.
struct KeyBlocks {
  int first, count, whole_begin, whole_end;

  __device__ KeyBlocks(int position, int end, int rows, int keys, bool is_causal, int window) {
    const int last_key = is_causal ? min(position + rows, end) : end;
    count = (last_key + keys - 1) / keys;
    first = lowest_key(position, window) / keys;
    whole_end = is_causal ? min(position + 1, end) / keys : end / keys;
    whole_begin = window > 0 ? (lowest_key(position + rows - 1, window) + keys - 1) / keys : 0;
  }
};

// Two rows of a lane, 8 apart, as mma and wgmma hold them: s[4 j + {0, 1}] is of the first row, columns
// 8 j + 2 (lane % 4) + {0, 1}; s[4 j + {2, 3}] of the second.
template <int kKeys, bool kModified>
class Softmax {
 public:
  __device__ Softmax(const FlashAttentionPrefillArgs& args, const Scores& scores)
      : args_(args), scores_(scores) {}

  // `position`: of the first row; `end`: keys of the sequence.
  __device__ __forceinline__ void begin(int position, int end, int head) {
    position_ = position;
    end_ = end;
    slope_ = kModified && args_.slopes ? args_.slopes[head] * kLog2E : 0.0f;
    max_[0] = max_[1] = -INFINITY;
    total_[0] = total_[1] = 0;
  }

  // From scores of keys `start` … to weights, relative to the largest score so far. The sum of earlier values
  // then counts `shrink` times.
  template <bool kMasked>
  __device__ __forceinline__ void add(float (&s)[kKeys / 2], int start, float (&shrink)[2]) {
    const int column = start + static_cast<int>(threadIdx.x) % 4 * 2;
    if constexpr (kModified) modify(s, column);
    if constexpr (kMasked) {
      int low[2], high[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int position = position_ + 8 * half;
        low[half] = lowest_key(position, args_.window) - column;
        high[half] = (args_.is_causal ? min(position, end_ - 1) : end_ - 1) - column;
      }
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i) {
        const int key = 8 * (i / 4) + i % 2, half = i / 2 % 2;
        if (key > high[half] || key < low[half]) s[i] = -INFINITY;
      }
    }
    const float scale = this->scale();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most[2] = {s[2 * half], s[2 * half + 1]};
#pragma unroll
      for (int i = 4; i < kKeys / 2; i += 4) {
        most[0] = fmaxf(most[0], s[i + 2 * half]);
        most[1] = fmaxf(most[1], s[i + 2 * half + 1]);
      }
      float next = fmaxf(fmaxf(most[0], most[1]), max_[half]);
      next = fmaxf(next, __shfl_xor_sync(kAllLanes, next, 1));
      next = fmaxf(next, __shfl_xor_sync(kAllLanes, next, 2));
      // a row may have seen no key yet: minus infinity less itself would be no number
      const float offset = kMasked && next == -INFINITY ? 0.0f : -next * scale;
      shrink[half] = exp2_fast(fmaf(max_[half], scale, offset));
      max_[half] = next;
      float sum[2] = {0, 0};
#pragma unroll
      for (int i = 2 * half; i < kKeys / 2; i += 4) {
        s[i] = exp2_fast(fmaf(s[i], scale, offset));
        s[i + 1] = exp2_fast(fmaf(s[i + 1], scale, offset));
        sum[0] += s[i];
        sum[1] += s[i + 1];
      }
      total_[half] = fmaf(total_[half], shrink[half], sum[0] + sum[1]);
    }
  }

  // 0, which depends on all weights so far.
  __device__ __forceinline__ int zero() const { return total_[0] + total_[1] < 0; }

  // What makes the sums of weighted values an average; `sink` a score without a value, or minus infinity.
  __device__ __forceinline__ void finish(float sink, float (&factor)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = total_[half];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const float max = max_[half] * scale(), most = fmaxf(max, sink * kLog2E);
      const float shrink = exp2_fast(max - most);
      factor[half] = shrink / fmaf(total, shrink, exp2_fast(sink * kLog2E - most));
    }
  }

 private:
  __device__ __forceinline__ void modify(float (&s)[kKeys / 2], int column) const {
    if (scores_.cap_scale != 0) {
#pragma unroll
      for (float& score : s) score = scores_.cap_log2 * tanh_fast(score * scores_.cap_scale);
    } else {
#pragma unroll
      for (float& score : s) score *= scores_.scale_log2;
    }
    if (args_.slopes == nullptr) return;
    const auto distance = static_cast<float>(column - position_);
#pragma unroll
    for (int i = 0; i < kKeys / 2; ++i)
      s[i] = fmaf(-slope_, fabsf(distance + static_cast<float>(8 * (i / 4) + i % 2 - i / 2 % 2 * 8)), s[i]);
  }

  __device__ __forceinline__ float scale() const { return kModified ? 1.0f : scores_.scale_log2; }

  const FlashAttentionPrefillArgs& args_;
  const Scores& scores_;
  int position_, end_;
  float slope_;
  float max_[2], total_[2];  // total_: of this lane's columns
};

// The weights of 16 keys as the A operand of the next product.
template <int kCount>
__device__ __forceinline__ void pack_weights(const float (&s)[kCount], uint32_t (&weights)[kCount / 8][4]) {
#pragma unroll
  for (int i = 0; i < kCount / 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) weights[i][j] = pack_bf16(s[8 * i + 2 * j], s[8 * i + 2 * j + 1]);
}

// Byte of 16-byte vector `chunk` of a row of 128 bytes, swizzled as TMA and wgmma do it.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// 16 rows of a warp, from sums to y by way of shared memory (`staging`, rows of 128 bytes in panels
// `panel_bytes` apart, for this warp alone). `y` is of the first row; rows from `count` on are not written.
template <int kDim>
__device__ __forceinline__ void store_rows(const float* sum, const float (&factor)[2], unsigned char* staging,
                                           int panel_bytes, bf16* y, int64_t y_stride, int count) {
  int lane = static_cast<int>(threadIdx.x) % 32;
  asm volatile("" : "+r"(lane));  // else the addresses below wait in registers from tile to tile
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kDim / 8; j += 2) {
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const v = sum + 4 * j + 2 * i;
      r[i] = pack_bf16(v[0] * factor[i % 2], v[1] * factor[i % 2]);
    }
    const int row = lane % 16, chunk = j % 8 + lane / 16;
    unsigned char* const to = staging + j / 8 * panel_bytes + swizzled(row, chunk);
    if constexpr (kSm90) {
      store_matrix_x4(to, r);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        *reinterpret_cast<uint32_t*>(staging + j / 8 * panel_bytes +
                                     swizzled(lane / 4 + i % 2 * 8, j % 8 + i / 2) + lane % 4 * 4) = r[i];
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const int piece = 32 * i + lane, row = piece / (kDim / 8), chunk = piece % (kDim / 8);
    const uint4 v =
        *reinterpret_cast<const uint4*>(staging + chunk / 8 * panel_bytes + swizzled(row, chunk % 8));
    if (row < count) *reinterpret_cast<uint4*>(y + row * y_stride + chunk * 8) = v;
  }
}

inline Scores scores_of(const FlashAttentionPrefillArgs& a) {
  Scores scores{a.scale * kLog2E, 0, 0};
  if (a.softcap > 0) scores.cap_scale = a.scale / a.softcap, scores.cap_log2 = a.softcap * kLog2E;
  return scores;
}

inline bool scores_are_modified(const FlashAttentionPrefillArgs& a) {
  return a.softcap > 0 || a.slopes != nullptr || !(a.scale > 0);
}

// The wgmma kernel, a file a head_dim.
template <int kDim>
void run_sm90(const FlashAttentionPrefillArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda::prefill
