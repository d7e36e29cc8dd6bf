// y[m, n] = x[m, k] W[n, k]^T (+ bias), W packed to 4 or 8 bits, few rows of x: the weights stream once past
// the tensor cores. Bound by memory.
//
// A warp owns 64 rows of W (a panel) and a share of k. Each lane copies its own 16 bytes of a block (pack.h)
// into its own slots of shared memory, `kDepth` blocks ahead, so no barrier stands between loads and use;
// unpacks them to the A operand of mma, with x as B, and folds the scale into f32 sums after every group.
// Shares of k are added at the end, through shared memory of the thread-block cluster, in one order. The
// weights are asked for before the wait for the kernel before (programmatic dependent launch), x after it.
//
// The bits of a row of y depend on W and that row alone: columns of an mma never mix, and no split depends on
// m.
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
  int m, n, k;                                    // n: of y
  int panels, blocks, groups, group_blocks_log2;  // blocks that share a scale
  int n_warps_log2, k_warps_log2, cluster_log2;
  int received_offset, barrier_offset;
  bool bf16_scales, gated;
};

template <int kBits, bool kZero, bool kGroup32, int kTokenTiles>
__global__ void __launch_bounds__(512, 1) stream_kernel(const __grid_constant__ StreamParameters p) {
  constexpr int kPieces = kBits / 4;       // 16-byte loads of a lane and tile
  constexpr int kTiles = kPanelRows / 16;  // mma tiles of a panel
  constexpr int kDepth = kBits == 4 ? kStreamDepth4 : kStreamDepth8;
  constexpr int kTokens = 8 * kTokenTiles;
  constexpr int kSlabStride = kSlabColumns + 8;  // 16 bytes of padding: ldmatrix meets no bank twice
  constexpr int kSlabBlocks = kSlabColumns / kBlockColumns;
  extern __shared__ __align__(128) unsigned char shared[];

  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int n_warps = 1 << p.n_warps_log2, k_warps = 1 << p.k_warps_log2, cluster = 1 << p.cluster_log2;
  const int n_warp = warp & (n_warps - 1), k_warp = warp >> p.n_warps_log2;
  const int rank = static_cast<int>(blockIdx.x) & (cluster - 1);
  const int row_tile = static_cast<int>(blockIdx.x) >> p.cluster_log2;
  const int first_token = static_cast<int>(blockIdx.y) * kStreamTokens;
  const int tokens = min(kTokens, p.m - first_token);
  const int panel = row_tile * n_warps + n_warp;
  // Blocks [first, last) of k belong to this block of the cluster; its k_warps take them in turn.
  const int first = static_cast<int>(static_cast<unsigned>(p.blocks * rank) >> p.cluster_log2);
  const int last = static_cast<int>(static_cast<unsigned>(p.blocks * (rank + 1)) >> p.cluster_log2);
  const int mine = first + k_warp;
  const int count = panel < p.panels && mine < last ? (last - mine + k_warps - 1) >> p.k_warps_log2 : 0;

  auto* const slab = reinterpret_cast<bf16*>(shared);  // [kTokens][kSlabStride]
  uint4* const ring = reinterpret_cast<uint4*>(shared + kTokens * kSlabStride * 2) +
                      warp * kDepth * kTiles * kPieces * 32 + lane;

  constexpr int kBlockBytes = kPanelRows * kBlockColumns * kBits / 8;
  const std::byte* const weights = p.weight + (int64_t{panel} * p.blocks + mine) * kBlockBytes + lane * 16;
  const std::byte* const scales =
      p.weight + p.scales_offset + int64_t{panel} * p.groups * 128 + lane / 4 * 16;
  const std::byte* const zeros = p.weight + p.zeros_offset + int64_t{panel} * p.groups * 64 + lane / 4 * 8;

  const auto fetch = [&](int i) {
    if (i < count) {
      const std::byte* from = weights + int64_t{i * k_warps} * kBlockBytes;
      uint4* slot = ring + i % kDepth * (kTiles * kPieces * 32);
#pragma unroll
      for (int j = 0; j < kTiles * kPieces; ++j) copy_async_streaming(slot + 32 * j, from + 512 * j);
    }
    copy_async_commit();
  };
  constexpr int kScaleSets = kGroup32 ? 2 : 1;  // of a block
  uint4 scale_bits[kScaleSets] = {};
  uint2 zero_bits[kScaleSets] = {};
  const auto fetch_scales = [&](int i) {
    if (i >= count) return;
    const int block = mine + i * k_warps;
#pragma unroll
    for (int set = 0; set < kScaleSets; ++set) {
      const int group = kGroup32 ? 2 * block + set : block >> p.group_blocks_log2;
      scale_bits[set] = __ldg(reinterpret_cast<const uint4*>(scales + group * 128));
      if (kZero) zero_bits[set] = __ldg(reinterpret_cast<const uint2*>(zeros + group * 64));
    }
  };

  auto* const received = reinterpret_cast<float*>(shared + p.received_offset);  // [cluster][kTokens][1 << finish_log2]
  auto* const all_received = reinterpret_cast<uint64_t*>(shared + p.barrier_offset);
  const int rows_log2 = p.n_warps_log2 + 6, finish_log2 = rows_log2 - p.cluster_log2;
  if constexpr (kSm90) {
    if (cluster > 1) {
      if (threadIdx.x == 0) {
        mbarrier_init(all_received, 1);
        mbarrier_init_fence();
        mbarrier_expect(all_received, tokens * 4 << rows_log2);
      }
      cluster_arrive_relaxed();
    }
  }
  launch_dependents();
#pragma unroll
  for (int i = 0; i < kDepth; ++i) fetch(i);
  fetch_scales(0);
  grid_dependency_wait();

  float total[kTiles][kTokenTiles][4] = {};
  const int slab_count = (last - first + kSlabBlocks - 1) / kSlabBlocks;
  for (int s = 0, i = 0; s < slab_count; ++s) {
    const int slab_first = first + s * kSlabBlocks;
    const int columns = min(kSlabBlocks, last - slab_first) * kBlockColumns;
    if (s > 0) __syncthreads();  // the slab before is done with
#pragma unroll 1
    for (int piece = static_cast<int>(threadIdx.x); piece < tokens * (kSlabColumns / 8);
         piece += blockDim.x) {
      const int token = piece / (kSlabColumns / 8), c = piece % (kSlabColumns / 8) * 8;
      if (c >= columns) continue;
      const int column = slab_first * kBlockColumns + c;
      const bf16* row = p.x + (first_token + token) * p.x_stride;
      uint4 v = {};  // beyond k: zeros, for 0 * NaN is NaN
      if (column < p.k) {
        if (p.permutation == nullptr) {
          v = *reinterpret_cast<const uint4*>(row + column);
        } else {
          const auto* u = reinterpret_cast<const unsigned short*>(row);
          const int4 low = *reinterpret_cast<const int4*>(p.permutation + column);
          const int4 high = *reinterpret_cast<const int4*>(p.permutation + column + 4);
          v = {u[low.x] | static_cast<uint32_t>(u[low.y]) << 16,
               u[low.z] | static_cast<uint32_t>(u[low.w]) << 16,
               u[high.x] | static_cast<uint32_t>(u[high.y]) << 16,
               u[high.z] | static_cast<uint32_t>(u[high.w]) << 16};
        }
      }
      *reinterpret_cast<uint4*>(slab + token * kSlabStride + c) = v;
    }
    __syncthreads();

    for (; i < count && mine + i * k_warps < slab_first + kSlabBlocks; ++i) {
      copy_async_wait<kDepth - 1>();
      const uint4* const slot = ring + i % kDepth * (kTiles * kPieces * 32);
      uint32_t b[kTokenTiles][8];  // of the block's 64 columns, 4 steps of 2 registers
      const bf16* const columns_here = slab + (mine + i * k_warps - slab_first) * kBlockColumns;
#pragma unroll
      for (int t = 0; t < kTokenTiles; ++t) {
        const bf16* row = columns_here + (8 * t + lane % 8) * kSlabStride + lane / 8 * 8;
        load_matrix_x4(reinterpret_cast<uint32_t (&)[4]>(b[t][0]), row);
        load_matrix_x4(reinterpret_cast<uint32_t (&)[4]>(b[t][4]), row + 32);
      }
      uint4 scale_now[kScaleSets];
      uint2 zero_now[kScaleSets];
#pragma unroll
      for (int set = 0; set < kScaleSets; ++set)
        scale_now[set] = scale_bits[set], zero_now[set] = zero_bits[set];
      fetch_scales(i + 1);

#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        uint4 words[kPieces];
#pragma unroll
        for (int j = 0; j < kPieces; ++j) words[j] = slot[32 * (kPieces * tile + j)];
        const auto* word = reinterpret_cast<const uint32_t*>(words);
#pragma unroll
        for (int set = 0; set < kScaleSets; ++set) {
          float part[kTokenTiles][4] = {};
          uint32_t zero_low = kBiasedZero4, zero_high = kBiasedZero4;
          if (kZero) {
            const uint32_t z = tile < 2 ? zero_now[set].x : zero_now[set].y;
            zero_low = biased_zero(z, tile % 2 * 2);
            zero_high = biased_zero(z, tile % 2 * 2 + 1);
          }
#pragma unroll
          for (int step = 4 / kScaleSets * set; step < 4 / kScaleSets * (set + 1); ++step) {
            uint32_t a[4];
            if constexpr (kBits == 4) {
              Unpack<4>::run(word[step], zero_low, zero_high, a);
            } else {
              Unpack<8>::run(word[2 * step], word[2 * step + 1], a);
            }
#pragma unroll
            for (int t = 0; t < kTokenTiles; ++t) mma_bf16(part[t], a, b[t][2 * step], b[t][2 * step + 1]);
          }
          const uint32_t pair = tile == 0   ? scale_now[set].x
                                : tile == 1 ? scale_now[set].y
                                : tile == 2 ? scale_now[set].z
                                            : scale_now[set].w;
          const float2 scale = p.bf16_scales
                                   ? float2{__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000)}
                                   : __half22float2(reinterpret_cast<const __half2&>(pair));
#pragma unroll
          for (int t = 0; t < kTokenTiles; ++t) {
            total[tile][t][0] = fmaf(scale.x, part[t][0], total[tile][t][0]);
            total[tile][t][1] = fmaf(scale.x, part[t][1], total[tile][t][1]);
            total[tile][t][2] = fmaf(scale.y, part[t][2], total[tile][t][2]);
            total[tile][t][3] = fmaf(scale.y, part[t][3], total[tile][t][3]);
          }
        }
      }
      fetch(i + kDepth);
    }
  }

  // Sums to shared memory, over the ring: [k_warp][token][row], padded so that a warp meets no bank twice.
  copy_async_wait<0>();
  __syncthreads();
  const int rows = n_warps * kPanelRows, row_stride = rows + 4;
  auto* const sums = reinterpret_cast<float*>(shared);
  float* const own = sums + k_warp * kTokens * row_stride + n_warp * kPanelRows;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int t = 0; t < kTokenTiles; ++t) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        own[(8 * t + lane % 4 * 2 + e % 2) * row_stride + 16 * tile + lane / 4 + e / 2 * 8] =
            total[tile][t][e];
      }
    }
  }
  __syncthreads();

  // Each block adds its shares, and sends each peer the rows that the peer finishes.
  if constexpr (kSm90) {
    if (cluster > 1) cluster_wait();  // for the arrival at the start: every peer has begun
  }
  for (int item = static_cast<int>(threadIdx.x); item < tokens << (rows_log2 - 2); item += blockDim.x) {
    const int token = item >> (rows_log2 - 2), row = 4 * (item & ((rows >> 2) - 1));
    float4 sum = {};
    for (int w = 0; w < k_warps; ++w) {
      const float4 v = *reinterpret_cast<const float4*>(sums + (w * kTokens + token) * row_stride + row);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    const int peer = row >> finish_log2, at = row & ((1 << finish_log2) - 1);
    float* const to = received + (((rank * kTokens + token) << finish_log2) + at);
    if (cluster > 1) {
      if constexpr (kSm90) store_remote(remote_address(to, peer), sum, remote_address(all_received, peer));
    } else {
      *reinterpret_cast<float4*>(to) = sum;
    }
  }
  if (cluster > 1) {
    if constexpr (kSm90) mbarrier_wait(all_received, 0);
  } else {
    __syncthreads();
  }

  const auto sum_of = [&](int token, int row) {
    float4 sum = {};
#pragma unroll 4
    for (int peer = 0; peer < cluster; ++peer) {
      const float4 v =
          *reinterpret_cast<const float4*>(received + (((peer * kTokens + token) << finish_log2) + row));
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    return sum;
  };
  const int outputs_log2 = finish_log2 - (p.gated ? 1 : 0);
  for (int item = static_cast<int>(threadIdx.x); item < tokens << (outputs_log2 - 2); item += blockDim.x) {
    const int token = item >> (outputs_log2 - 2), output = 4 * (item & ((1 << (outputs_log2 - 2)) - 1));
    const int row = p.gated ? output / 8 * 16 + output % 8 : output;  // see `source_row`
    const int column = (((row_tile << p.cluster_log2) + rank) << outputs_log2) + output;
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

// Slab, ring and, over both, sums; then what peers send.
inline size_t stream_received_offset(const StreamTile& tile, int bits, int token_tiles) {
  const int depth = bits == 4 ? kStreamDepth4 : kStreamDepth8;
  const size_t slab = static_cast<size_t>(8 * token_tiles) * (kSlabColumns + 8) * 2;
  const size_t ring = static_cast<size_t>(tile.warps()) * depth * kPanelRows * kBlockColumns * bits / 8;
  const size_t sums =
      static_cast<size_t>(tile.k_warps) * 8 * token_tiles * (tile.n_warps * kPanelRows + 4) * 4;
  return round_up<size_t>(std::max(slab + ring, sums), 128);
}

template <int kBits, bool kZero>
void launch_stream(const PackedMatmulArgs& a, const StreamTile& tile, cudaStream_t stream) {
  const int token_tiles = a.m <= 8 ? 1 : 2;
  const size_t received_offset = stream_received_offset(tile, kBits, token_tiles);
  const size_t received_bytes = size_t{8} * token_tiles * tile.n_warps * kPanelRows * 4;
  const auto log2 = [](int power) { return std::countr_zero(static_cast<unsigned>(power)); };
  const PackedShape& s = a.shape;
  StreamParameters p{.weight = static_cast<const std::byte*>(a.weight),
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
                     .panels = static_cast<int>(s.panels()),
                     .blocks = static_cast<int>(s.blocks()),
                     .groups = static_cast<int>(s.groups()),
                     .group_blocks_log2 = s.group == 128 ? 1 : 0,
                     .n_warps_log2 = log2(tile.n_warps),
                     .k_warps_log2 = log2(tile.k_warps),
                     .cluster_log2 = log2(tile.cluster),
                     .received_offset = static_cast<int>(received_offset),
.barrier_offset = static_cast<int>(received_offset + received_bytes),
                     .bf16_scales = s.scale_type == ScaleType::bf16,
                     .gated = s.gated};
  const auto tiles = static_cast<unsigned>(ceil_div(p.panels, tile.n_warps) * tile.cluster);
  const LaunchShape shape{.grid = dim3(tiles, static_cast<unsigned>(ceil_div(p.m, kStreamTokens))),
                          .block = dim3(static_cast<unsigned>(32 * tile.warps())),
                          .shared_bytes = received_offset + received_bytes + 16,
                          .stream = stream,
                          .cluster = tile.cluster,
                          .dependent = a.dependent && current_arch().has_dependent_launch()};
  const bool group32 = s.group == 32;
  if (token_tiles == 1) {
    launch(group32 ? stream_kernel<kBits, kZero, true, 1> : stream_kernel<kBits, kZero, false, 1>, shape, p);
  } else {
    launch(group32 ? stream_kernel<kBits, kZero, true, 2> : stream_kernel<kBits, kZero, false, 2>, shape, p);
  }
}

}  // namespace crosscurrent::cuda
