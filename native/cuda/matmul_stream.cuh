// y[m, n] = x[m, k] W[n, k]^T (+ bias), W packed to 4 or 8 bits, few rows of x: the weights stream once past
// the tensor cores. Bound by memory.
//
// A block owns `kTiles` times 16 rows of W, its 8 warps take blocks of 64 columns in turn. A warp is on its
// own until the end: it copies the weights and the x of a block into its slots of shared memory, `kDepth`
// blocks ahead, each lane the 16 bytes of weights that it will read itself; unpacks them to the A operand of
// mma, with x as B, and folds the scale into f32 sums after every group. Shares of k are added at the end, in
// one order. The first weights are asked for before the wait for the kernel before (programmatic dependent
// launch), and a block is small enough for the next kernel's to start beside it: memory does not rest between
// kernels.
//
// The bits of a row of y depend on W and that row alone: columns of an mma never mix, and no split depends on
// m.
//
// Tried and lost (H100, us at 4096 x 14336 for m = 1 / 16, where this design takes 11.1 / 15.1): shares of k
// over a thread-block cluster with x staged by the block, 12.9 / 15.9; scales by plain loads a block
// ahead, 12.8 / 16.5; 7 tiles a block, which leaves a multiprocessor one block of 8 warps, 15.6; subtracting
// zero points from weights in place of one mma with ones, 17 % more instructions.
#pragma once

#include "launch.cuh"
#include "matmul_stream.h"
#include "matmul_tile.h"
#include "matmul_unpack.cuh"
#include "ptx.cuh"

namespace crosscurrent::cuda {

struct StreamParameters {
  const std::byte* weight;
  const bf16* x;
  const bf16* bias;            // or null
  const int32_t* permutation;  // or null
  bf16* y;
  int64_t x_stride, y_stride, scales_offset, zeros_offset;
  int m, n, k;                // n: of y
  int tiles, blocks, groups;  // tiles of 16 rows
  int group_blocks_log2;      // blocks that share a scale
  bool bf16_scales, gated;
};

template <int kBitsOf, bool kZeroOf, bool kGroup32Of, int kTilesOf, int kTokenTilesOf>
struct StreamShape {
  static constexpr int kBits = kBitsOf, kTiles = kTilesOf, kTokenTiles = kTokenTilesOf,
                       kTokens = 8 * kTokenTiles;
  static constexpr bool kZero = kZeroOf, kGroup32 = kGroup32Of;
  static constexpr int kScaleSets = kGroup32 ? 2 : 1;  // of a block
  static constexpr int kPieces = kBits / 4;            // 16-byte loads of a lane and tile
  static constexpr int kRows = 16 * kTiles;
  static constexpr int kWeightBytes = kTiles * kPieces * 512;
  static constexpr int kXStride = kBlockColumns + 8;  // 144 bytes: ldmatrix meets no bank twice
  static constexpr int kXBytes = kTokens * kXStride * 2;
  static constexpr int kPanels = (kTiles + 2) / 4 + 1;  // that tiles can touch
  static constexpr int kScaleBytes = kScaleSets * kPanels * 128;
  static constexpr int kZeroBytes = kZero ? kScaleSets * kPanels * 64 : 0;
  static constexpr int kSlotBytes = kWeightBytes + kXBytes + kScaleBytes + kZeroBytes;
  // Two blocks fit a multiprocessor. Three, with shorter rings, where tiles are few: 7.6 us for 6.4 (4096 x
  // 4096, m = 1).
  static constexpr int kWanted = (112 << 10) / (kStreamWarps * kSlotBytes);
  static constexpr int kDepth = kWanted < 2 ? 2 : kWanted > 8 ? 8 : kWanted;
  static constexpr int kRingBytes = kStreamWarps * kDepth * kSlotBytes;
  static constexpr int kSumStride = kRows + 4;  // no bank twice
  static constexpr int kSumBytes = kStreamWarps * kTokens * kSumStride * 4;
  static constexpr int kSharedBytes = kRingBytes > kSumBytes ? kRingBytes : kSumBytes;
};

// 8 columns of a row of x, in the order of packed columns.
__device__ __forceinline__ uint4 permuted_x(const bf16* row, int column, const int32_t* permutation) {
  const auto* u = reinterpret_cast<const unsigned short*>(row);
  const auto pair = [u](int low, int high) { return u[low] | static_cast<uint32_t>(u[high]) << 16; };
  const int4 low = *reinterpret_cast<const int4*>(permutation + column);
  const int4 high = *reinterpret_cast<const int4*>(permutation + column + 4);
  return {pair(low.x, low.y), pair(low.z, low.w), pair(high.x, high.y), pair(high.z, high.w)};
}

// The warps' sums to y. `sums`: [warp][token][row].
template <class S>
__device__ __forceinline__ void stream_store(const StreamParameters& p, const float* sums, int first_tile,
                                             int first_token, int tokens) {
  const auto sum_of = [&](int token, int row) {
    float4 sum = {};
#pragma unroll
    for (int w = 0; w < kStreamWarps; ++w) {
      const float4 v =
          *reinterpret_cast<const float4*>(sums + (w * S::kTokens + token) * S::kSumStride + row);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
  };
  const int outputs = p.gated ? S::kRows / 2 : S::kRows, quads = outputs / 4;
  for (int item = static_cast<int>(threadIdx.x); item < tokens * quads; item += 32 * kStreamWarps) {
    const int token = item / quads, output = item % quads * 4;
    const int row = p.gated ? output / 8 * 16 + output % 8 : output;  // see `source_row`
    const int column = first_tile * (p.gated ? 8 : 16) + output;
    if (column >= p.n) continue;
    const float4 sum = sum_of(token, row);
    float values[4] = {sum.x, sum.y, sum.z, sum.w}, up[4] = {};
    if (p.gated) {
      const float4 u = sum_of(token, row + 8);
      up[0] = u.x, up[1] = u.y, up[2] = u.z, up[3] = u.w;
    }
    bf16* const out = p.y + (first_token + token) * p.y_stride + column;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const bool inside = column + e < p.n;
      if (p.bias != nullptr && inside) {
        values[e] += __bfloat162float(p.bias[column + e]);
        if (p.gated) up[e] += __bfloat162float(p.bias[p.n + column + e]);
      }
      if (p.gated) values[e] = values[e] / (1.0f + __expf(-values[e])) * up[e];
      if (inside && column + 4 > p.n) out[e] = __float2bfloat16(values[e]);
    }
    if (column + 4 <= p.n) {
      *reinterpret_cast<uint2*>(out) = {pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3])};
    }
  }
}

template <class S>
__global__ void __launch_bounds__(32 * kStreamWarps, 2)
    stream_kernel(const __grid_constant__ StreamParameters p) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first_tile = static_cast<int>(blockIdx.x) * S::kTiles;
  const int first_token = static_cast<int>(blockIdx.y) * kStreamTokens;
  const int tokens = min(S::kTokens, p.m - first_token);
  const int count = (p.blocks - warp + kStreamWarps - 1) / kStreamWarps;  // blocks warp, warp + 8, …
  unsigned char* const slots = shared + warp * S::kDepth * S::kSlotBytes;

  // Tiles beyond the last repeat it, and are not stored.
  const auto tile_of = [&](int j) { return min(first_tile + j, p.tiles - 1); };
  const auto fetch_weights = [&](int i) {
    const int block = warp + i * kStreamWarps;
    unsigned char* const slot = slots + i % S::kDepth * S::kSlotBytes + lane * 16;
#pragma unroll
    for (int j = 0; j < S::kTiles; ++j) {
      const int tile = tile_of(j);
      const int at = (tile / 4 * p.blocks + block) * 4 + tile % 4;
      const std::byte* const from = p.weight + int64_t{at} * (512 * S::kPieces) + lane * 16;
#pragma unroll
      for (int piece = 0; piece < S::kPieces; ++piece) {
        copy_async_16(slot + (j * S::kPieces + piece) * 512, from + 512 * piece);
      }
    }
    // Scales and zeros of whole panels, 16 bytes a lane.
    unsigned char* const scales = slot - lane * 16 + S::kWeightBytes + S::kXBytes;
#pragma unroll
    for (int set = 0; set < S::kScaleSets; ++set) {
      const int group = S::kGroup32 ? 2 * block + set : block >> p.group_blocks_log2;
      if (lane < 8 * S::kPanels) {
        const int panel = min(first_tile / 4 + lane / 8, (p.tiles - 1) / 4);
        copy_async_16(scales + (set * S::kPanels * 8 + lane) * 16,
                      p.weight + p.scales_offset + (int64_t{panel} * p.groups + group) * 128 + lane % 8 * 16);
      }
      if (S::kZero && lane < 4 * S::kPanels) {
        const int panel = min(first_tile / 4 + lane / 4, (p.tiles - 1) / 4);
        copy_async_16(scales + S::kScaleBytes + (set * S::kPanels * 4 + lane) * 16,
                      p.weight + p.zeros_offset + (int64_t{panel} * p.groups + group) * 64 + lane % 4 * 16);
      }
    }
  };
  // A lane's pieces of the x of a block: row lane / 8 and every fourth after it, 8 columns.
  const bf16* const x = p.x + (first_token + lane / 8) * p.x_stride;
  const auto x_slot = [&](int i) {
    return reinterpret_cast<bf16*>(slots + i % S::kDepth * S::kSlotBytes + S::kWeightBytes) +
           lane / 8 * S::kXStride + lane % 8 * 8;
  };
  const auto x_column = [&](int i) { return (warp + i * kStreamWarps) * kBlockColumns + lane % 8 * 8; };
  const auto gather_x = [&](int i) {
#pragma unroll 1
    for (int r = 0; r < 2 * S::kTokenTiles; ++r) {
      if (lane / 8 + 4 * r >= tokens) break;
      uint4 v = {};
      if (x_column(i) < p.k) v = permuted_x(x + 4 * r * p.x_stride, x_column(i), p.permutation);
      *reinterpret_cast<uint4*>(x_slot(i) + 4 * r * S::kXStride) = v;
    }
  };

  launch_dependents();
#pragma unroll
  for (int i = 0; i < S::kDepth; ++i) {
    if (i < count) fetch_weights(i);
    copy_async_commit();
  }
  grid_dependency_wait();
  // x of the blocks under way, by way of registers: copies now would be waited for after all the weights.
  constexpr int kXPieces = 2 * S::kTokenTiles;  // of a lane and block
  const auto has_x = [&](int i, int r) { return lane / 8 + 4 * r < tokens && x_column(i) < p.k; };
  if (p.permutation == nullptr) {
    uint4 v[S::kDepth][kXPieces];
#pragma unroll
    for (int i = 0; i < S::kDepth; ++i) {
#pragma unroll
      for (int r = 0; r < kXPieces; ++r) {
        v[i][r] = {};  // beyond k: zeros, for 0 * NaN is NaN
        if (has_x(i, r)) v[i][r] = *reinterpret_cast<const uint4*>(x + 4 * r * p.x_stride + x_column(i));
      }
    }
#pragma unroll
    for (int i = 0; i < S::kDepth; ++i) {
#pragma unroll
      for (int r = 0; r < kXPieces; ++r) *reinterpret_cast<uint4*>(x_slot(i) + 4 * r * S::kXStride) = v[i][r];
    }
  } else {
#pragma unroll 1
    for (int i = 0; i < min(S::kDepth, count); ++i) gather_x(i);
  }

  float total[S::kTiles][S::kTokenTiles][4] = {};
  for (int i = 0; i < count; ++i) {
    copy_async_wait<S::kDepth - 1>();
    __syncwarp();
    const unsigned char* const slot = slots + i % S::kDepth * S::kSlotBytes;
    uint32_t b[S::kTokenTiles][8];  // of 64 columns: 4 steps of 2 registers
#pragma unroll
    for (int t = 0; t < S::kTokenTiles; ++t) {
      const bf16* const row = reinterpret_cast<const bf16*>(slot + S::kWeightBytes) +
                              (8 * t + lane % 8) * S::kXStride + lane / 8 * 8;
      load_matrix_x4(reinterpret_cast<uint32_t (&)[4]>(b[t][0]), row);
      load_matrix_x4(reinterpret_cast<uint32_t (&)[4]>(b[t][4]), row + 32);
    }
    // What the bias of unpacked weights adds: sums of x, by an mma with ones, times 128 + zero. 4 bits only.
    float bias[S::kScaleSets][S::kTokenTiles][4];
    if constexpr (S::kBits == 4) {
#pragma unroll
      for (int set = 0; set < S::kScaleSets; ++set) {
#pragma unroll
        for (int t = 0; t < S::kTokenTiles; ++t) {
          const uint32_t ones[4] = {0x3F803F80, 0x3F803F80, 0x3F803F80, 0x3F803F80};
          float sum[4] = {};
#pragma unroll
          for (int step = 4 / S::kScaleSets * set; step < 4 / S::kScaleSets * (set + 1); ++step) {
            mma_bf16(sum, ones, b[t][2 * step], b[t][2 * step + 1]);
          }
#pragma unroll
          for (int e = 0; e < 4; ++e) bias[set][t][e] = S::kZero ? sum[e % 2] : -136.0f * sum[e % 2];
        }
      }
    }
    uint4 words[2][S::kPieces];  // of this tile and the next
    const auto load_words = [&](int j) {
#pragma unroll
      for (int piece = 0; piece < S::kPieces; ++piece) {
        words[j % 2][piece] =
            *reinterpret_cast<const uint4*>(slot + (j * S::kPieces + piece) * 512 + lane * 16);
      }
    };
    load_words(0);
#pragma unroll
    for (int j = 0; j < S::kTiles; ++j) {
      asm volatile("" ::: "memory");  // or the compiler loads all tiles at once, and spills
      if (j + 1 < S::kTiles) load_words(j + 1);
      const auto* word = reinterpret_cast<const uint32_t*>(words[j % 2]);
      const int local_panel = (first_tile + j) / 4 - first_tile / 4, tile_in_panel = (first_tile + j) % 4;
#pragma unroll
      for (int set = 0; set < S::kScaleSets; ++set) {
        float part[S::kTokenTiles][4] = {};
        if constexpr (S::kBits == 4) {
          uint32_t zeros = 0;  // of rows r and r + 8
          if (S::kZero) {
            zeros = *reinterpret_cast<const uint16_t*>(slot + S::kWeightBytes + S::kXBytes + S::kScaleBytes +
                                                       (set * S::kPanels + local_panel) * 64 + lane / 4 * 8 +
                                                       tile_in_panel * 2);
          }
          const float low = -128.0f - static_cast<float>(zeros & 0xFF);
          const float high = -128.0f - static_cast<float>(zeros >> 8);
#pragma unroll
          for (int t = 0; t < S::kTokenTiles; ++t) {
#pragma unroll
            for (int e = 0; e < 4; ++e)
              part[t][e] = S::kZero ? bias[set][t][e] * (e < 2 ? low : high) : bias[set][t][e];
          }
        }
#pragma unroll
        for (int step = 4 / S::kScaleSets * set; step < 4 / S::kScaleSets * (set + 1); ++step) {
          uint32_t a[4];
          if constexpr (S::kBits == 4) {
            Unpack<4>::biased(word[step], a);
          } else {
            Unpack<8>::run(word[2 * step], word[2 * step + 1], a);
          }
#pragma unroll
          for (int t = 0; t < S::kTokenTiles; ++t) mma_bf16(part[t], a, b[t][2 * step], b[t][2 * step + 1]);
        }
        const uint32_t pair = *reinterpret_cast<const uint32_t*>(  // scales of rows r and r + 8
            slot + S::kWeightBytes + S::kXBytes + (set * S::kPanels + local_panel) * 128 + lane / 4 * 16 +
            tile_in_panel * 4);
        const float2 scale = p.bf16_scales
                                 ? float2{__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000)}
                                 : __half22float2(reinterpret_cast<const __half2&>(pair));
#pragma unroll
        for (int t = 0; t < S::kTokenTiles; ++t) {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            total[j][t][e] = fmaf(e < 2 ? scale.x : scale.y, part[t][e], total[j][t][e]);
        }
      }
    }
    __syncwarp();  // every lane has read x
    const int next = i + S::kDepth;
    if (next < count) {
      fetch_weights(next);
#pragma unroll
      for (int r = 0; r < kXPieces; ++r) {
        if (p.permutation != nullptr || lane / 8 + 4 * r >= tokens) break;
        const bool inside = x_column(next) < p.k;
        const bf16* const row = x + 4 * r * p.x_stride;
        copy_async_16(x_slot(next) + 4 * r * S::kXStride, inside ? row + x_column(next) : row,
                      inside ? 16 : 0);
      }
      if (p.permutation != nullptr) gather_x(next);
    }
    copy_async_commit();
  }

  copy_async_wait<0>();
  __syncthreads();
  auto* const sums = reinterpret_cast<float*>(shared);  // over the slots
  float* const own = sums + warp * S::kTokens * S::kSumStride;
#pragma unroll
  for (int j = 0; j < S::kTiles; ++j) {
#pragma unroll
    for (int t = 0; t < S::kTokenTiles; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        own[(8 * t + lane % 4 * 2 + e % 2) * S::kSumStride + 16 * j + lane / 4 + e / 2 * 8] = total[j][t][e];
      }
    }
  }
  __syncthreads();
  stream_store<S>(p, sums, first_tile, first_token, tokens);
}

template <class S>
void launch_stream(const PackedMatmulArgs& a, const StreamParameters& p, cudaStream_t stream) {
  launch(stream_kernel<S>,
         {.grid = dim3(static_cast<unsigned>(ceil_div(p.tiles, S::kTiles)),
                       static_cast<unsigned>(ceil_div(p.m, kStreamTokens))),
          .block = dim3(32 * kStreamWarps),
          .shared_bytes = S::kSharedBytes,
          .stream = stream,
          .dependent = a.dependent && current_arch().has_dependent_launch()},
         p);
}

template <int kBits, bool kZero, bool kGroup32, int kTiles>
void dispatch_tokens(const PackedMatmulArgs& a, const StreamParameters& p, cudaStream_t stream) {
  p.m <= 8 ? launch_stream<StreamShape<kBits, kZero, kGroup32, kTiles, 1>>(a, p, stream)
           : launch_stream<StreamShape<kBits, kZero, kGroup32, kTiles, 2>>(a, p, stream);
}

template <int kBits, bool kZero, bool kGroup32>
void dispatch_stream(const PackedMatmulArgs& a, int tiles, cudaStream_t stream) {
  const PackedShape& s = a.shape;
  const StreamParameters p{.weight = static_cast<const std::byte*>(a.weight),
                           .x = a.x,
                           .bias = a.bias,
                           .permutation = a.permutation,
                           .y = a.y,
                           .x_stride = a.x_stride,
                           .y_stride = a.y_stride,
                           .scales_offset = s.scales_offset(),
                           .zeros_offset = s.zeros_offset(),
                           .m = static_cast<int>(a.m),
                           .n = static_cast<int>(s.gated ? s.n / 2 : s.n),
                           .k = static_cast<int>(s.k),
                           .tiles = static_cast<int>(stream_row_tiles(s)),
                           .blocks = static_cast<int>(s.blocks()),
                           .groups = static_cast<int>(s.groups()),
                           .group_blocks_log2 = s.group == 128 ? 1 : 0,
                           .bf16_scales = s.scale_type == ScaleType::bf16,
                           .gated = s.gated};
  switch (tiles) {
    case 1: return dispatch_tokens<kBits, kZero, kGroup32, 1>(a, p, stream);
    case 2: return dispatch_tokens<kBits, kZero, kGroup32, 2>(a, p, stream);
    case 3: return dispatch_tokens<kBits, kZero, kGroup32, 3>(a, p, stream);
    case 4: return dispatch_tokens<kBits, kZero, kGroup32, 4>(a, p, stream);
    case 5: return launch_stream<StreamShape<kBits, kZero, kGroup32, 5, 1>>(a, p, stream);
    case 6: return launch_stream<StreamShape<kBits, kZero, kGroup32, 6, 1>>(a, p, stream);
    default: return launch_stream<StreamShape<kBits, kZero, kGroup32, 7, 1>>(a, p, stream);
  }
}

}  // namespace crosscurrent::cuda
