// y[m, n] = x[m, k] W[n, k]^T (+ bias) for many rows of x, on wgmma: W in bf16, or packed to 4 or 8 bits and
// unpacked to registers on the way to the tensor cores. Bound by wgmma; with few rows by the weights.
//
// W is the A operand and x the B operand, y^T = W x^T, so that unpacked weights never go back to shared
// memory. One thread keeps `kStages` stages of TMA loads ahead; two consumer warpgroups own `kRowBlocks`
// times 64 rows of W each, and unpack a stage while the wgmmas of the one before run. The blocks of a cluster
// take neighbouring rows of W and the same rows of x: each loads its share of x for all. Blocks stay and take
// tile after tile, the producer a tile ahead. Scaled weights are rounded to bf16.
//
//        x [kTokens, 64] --TMA, multicast--> shared ------------------ B \
//        W packed        --TMA-------------> shared --unpack--> registers A  -> y^T in registers -> shared ->
//        TMA
#pragma once

#include "launch.cuh"
#include "matmul_sm90.h"
#include "matmul_unpack.cuh"
#include "pack.h"
#include "ptx.cuh"
#include "tensor_map.h"
#include "wgmma.cuh"

namespace crosscurrent::cuda {

struct GemmParameters {
  CUtensorMap x, weight, scales, zeros, y;
  const bf16* bias;  // or null
  bf16* y_plain;
  int64_t y_stride;
  int m, n;  // of y
  bool ragged;
  int k_blocks, row_clusters, token_tiles;  // row_clusters: of a cluster's tiles
  int group_log2;
  bool bf16_scales;
};

template <int kBitsOf, bool kZeroOf, bool kGroup32Of, bool kGatedOf, int kTokensOf, int kRowBlocksOf,
          int kStagesOf, int kClusterOf>
struct GemmTile {
  static constexpr int kBits = kBitsOf, kTokens = kTokensOf, kRowBlocks = kRowBlocksOf, kStages = kStagesOf;
  static constexpr int kCluster = kClusterOf;
  static constexpr bool kZero = kZeroOf, kGroup32 = kGroup32Of, kGated = kGatedOf;
  static constexpr int kConsumers = 2;  // warpgroups
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kRows = 64 * kRowBlocks * kConsumers;
  static constexpr int kPanels = kRows / kPanelRows;
  static constexpr int kScaleSets = kGroup32 ? 2 : 1;  // of a stage
  static constexpr int kXBytes = kTokens * kBlockColumns * 2;
  static constexpr int kPanelBytes = kPanelRows * kBlockColumns * kBits / 8;
  static constexpr int kWeightBytes = kPanels * kPanelBytes;
  static constexpr int kScaleBytes = kBits == 16 ? 0 : kPanels * kScaleSets * 128;
  static constexpr int kZeroBytes = kZero ? kPanels * kScaleSets * 64 : 0;
  static constexpr int kLoadBytes = kXBytes + kWeightBytes + kScaleBytes + kZeroBytes;
  static constexpr int kStageBytes = round_up(kLoadBytes, 1024);
  // y waits for its TMA store in stretches of 64 outputs (128 bytes, swizzled) for 64 tokens.
  static constexpr int kOutputs = kGated ? kRows / 2 : kRows;
  static constexpr int kStretches = kOutputs / kConsumers / 64;  // of a warpgroup
  static constexpr int kStoreTokens = 64;
  static constexpr int kStretchBytes = kStoreTokens * 128;
  static constexpr int kSharedBytes = kStages * kStageBytes + kConsumers * kStretches * kStretchBytes + 1024;
  static_assert(kStretches >= 1 && kTokens % kStoreTokens == 0 && kSharedBytes <= 227 * 1024);
};

// Tiles go by groups of 16 along tokens, rows of W outermost in a group: what runs at once shares W and x in
// L2.
struct TilePosition {
  int row_tile, token_tile;
};

__device__ __forceinline__ TilePosition tile_position(int tile, int row_tiles, int token_tiles) {
  constexpr int kGroupTiles = 16;
  const int group = tile / (kGroupTiles * row_tiles), rest = tile - group * kGroupTiles * row_tiles;
  const int width = min(kGroupTiles, token_tiles - group * kGroupTiles);
  return {rest / width, group * kGroupTiles + rest % width};
}

template <class Tile>
__device__ __forceinline__ void gemm_produce(const GemmParameters& p, unsigned char* stages, uint64_t* full,
                                             uint64_t* empty, int cluster_count, int rank) {
  const int tiles = p.row_clusters * p.token_tiles;
  const auto load_weights = [&](int stage, int row_tile, int k_block) {
    unsigned char* const base = stages + stage * Tile::kStageBytes + Tile::kXBytes;
    mbarrier_expect(&full[stage], Tile::kLoadBytes);
    if constexpr (Tile::kBits == 16) {
      tma_load(base, &p.weight, k_block * kBlockColumns, row_tile * Tile::kRows, &full[stage]);
    } else {
      tma_load(base, &p.weight, 0, k_block * (Tile::kPanelBytes / 1024), row_tile * Tile::kPanels,
               &full[stage], CachePolicy::normal);
      const int group = k_block << 6 >> p.group_log2;
      tma_load(base + Tile::kWeightBytes, &p.scales, 0, group, row_tile * Tile::kPanels, &full[stage]);
      if constexpr (Tile::kZero) {
        tma_load(base + Tile::kWeightBytes + Tile::kScaleBytes, &p.zeros, 0, group, row_tile * Tile::kPanels,
                 &full[stage]);
      }
    }
  };
  const auto load_x = [&](int stage, int token_tile, int k_block) {
    unsigned char* const base = stages + stage * Tile::kStageBytes;
    const int column = k_block * kBlockColumns, token = token_tile * Tile::kTokens;
    if constexpr (Tile::kCluster == 1) {
      tma_load(base, &p.x, column, token, &full[stage]);
    } else {
      constexpr int kShare = Tile::kTokens / Tile::kCluster;
      tma_load_multicast(base + rank * kShare * 128, &p.x, column, token + rank * kShare, &full[stage],
                         (1 << Tile::kCluster) - 1);
    }
  };
  int stage = 0, phase = 1, early = 0;  // phase 1: every stage begins empty
  for (int tile = static_cast<int>(blockIdx.x) / Tile::kCluster; tile < tiles; tile += cluster_count) {
    const TilePosition at = tile_position(tile, p.row_clusters, p.token_tiles);
    const int row_tile = at.row_tile * Tile::kCluster + rank;
    int first = 0;
    if (early == 0) {  // weights do not depend on the kernel before
      early = min(Tile::kStages, p.k_blocks);
      for (int k = 0; k < early; ++k) load_weights(k, row_tile, k);
      grid_dependency_wait();
      for (int k = 0; k < early; ++k) load_x(k, at.token_tile, k);
      first = early;
      stage = early % Tile::kStages;
      phase = early == Tile::kStages ? 0 : 1;
    }
    for (int k = first; k < p.k_blocks; ++k) {
      mbarrier_wait(&empty[stage], phase);
      load_weights(stage, row_tile, k);
      load_x(stage, at.token_tile, k);
      if (++stage == Tile::kStages) stage = 0, phase ^= 1;
    }
  }
}

// The A operand of a warp for half a stage, 2 steps of 16 columns. `words` keeps what one load brought for
// both halves.
template <class Tile, int kHalf>
__device__ __forceinline__ void gemm_unpack(const GemmParameters& p, const unsigned char* weights,
                                            int warpgroup, int warp, int lane,
                                            uint4 (&words)[Tile::kRowBlocks],
                                            uint32_t (&a)[Tile::kRowBlocks][2][4]) {
#pragma unroll
  for (int block = 0; block < Tile::kRowBlocks; ++block) {
    const int panel = warpgroup * Tile::kRowBlocks + block;
    constexpr int kPieces = Tile::kBits / 4;
    if constexpr (kHalf == 0 || kPieces == 2) {
      const int piece = warp * kPieces + (kPieces == 2 ? kHalf : 0);
      words[block] =
          *reinterpret_cast<const uint4*>(weights + panel * Tile::kPanelBytes + piece * 512 + lane * 16);
    }
    const int set = panel * Tile::kScaleSets + (Tile::kGroup32 ? kHalf : 0);
    const unsigned char* const scales = weights + Tile::kWeightBytes;
    const uint32_t pair = *reinterpret_cast<const uint32_t*>(scales + set * 128 + lane / 4 * 16 + warp * 4);
    uint32_t low, high;  // scales of rows r and r + 8, twice in a register
    if (p.bf16_scales) {
      low = __byte_perm(pair, 0, 0x1010), high = __byte_perm(pair, 0, 0x3232);
    } else {
      const float2 scale = __half22float2(reinterpret_cast<const __half2&>(pair));
      low = pack_bf16(scale.x, scale.x), high = pack_bf16(scale.y, scale.y);
    }
    uint32_t zero_low = kBiasedZero4, zero_high = kBiasedZero4;
    if constexpr (Tile::kZero) {
      const auto* zeros = scales + Tile::kScaleBytes + set * 64 + lane / 4 * 8 + warp * 2;
      const uint32_t z = *reinterpret_cast<const uint16_t*>(zeros);
      zero_low = biased_zero(z, 0), zero_high = biased_zero(z, 1);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const uint4 w = words[block];
      if constexpr (Tile::kBits == 4) {
        const uint32_t word = kHalf == 0 ? (step == 0 ? w.x : w.y) : (step == 0 ? w.z : w.w);
        Unpack<4>::run(word, zero_low, zero_high, a[block][step]);
      } else {
        Unpack<8>::run(step == 0 ? w.x : w.z, step == 0 ? w.y : w.w, a[block][step]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i)
        a[block][step][i] = multiply_bf16(a[block][step][i], i % 2 == 0 ? low : high);
    }
  }
}

// From accumulators to y: bias, gate, transposed to rows of y by stmatrix, TMA store.
template <class Tile>
__device__ __forceinline__ void gemm_store(const GemmParameters& p,
                                           float (&d)[Tile::kRowBlocks][Tile::kTokens / 2],
                                           unsigned char* staging, int warpgroup, int warp, int lane,
                                           int row_tile, int token_tile) {
  const int first_output = row_tile * Tile::kOutputs + warpgroup * (Tile::kOutputs / Tile::kConsumers);
  constexpr int kBlockOutputs = Tile::kGated ? 32 : 64;
  if (p.bias != nullptr) {
#pragma unroll
    for (int block = 0; block < Tile::kRowBlocks; ++block) {
      const int output = first_output + block * kBlockOutputs + warp * (kBlockOutputs / 4) + lane / 4;
      const int other = Tile::kGated ? output + p.n : output + 8;  // of row r + 8: up, or 8 outputs on
      const bool inside = output < p.n, other_inside = Tile::kGated ? inside : other < p.n;
      const float low = inside ? __bfloat162float(p.bias[output]) : 0.0f;
      const float high = other_inside ? __bfloat162float(p.bias[other]) : 0.0f;
#pragma unroll
      for (int i = 0; i < Tile::kTokens / 2; ++i) d[block][i] += i % 4 < 2 ? low : high;
    }
  }
#pragma unroll
  for (int round = 0; round < Tile::kTokens / Tile::kStoreTokens; ++round) {
    if (warp == 0 && lane == 0) tma_store_wait_read<0>();
    barrier_sync(1 + warpgroup, 128);
#pragma unroll
    for (int block = 0; block < Tile::kRowBlocks; ++block) {
      constexpr int kGroups = Tile::kGated ? 4 : 2;  // of 8 tokens, a stmatrix of four 8x8
#pragma unroll
      for (int j = 0; j < Tile::kStoreTokens / 8; j += kGroups) {
        uint32_t r[4];
        const float* const v = &d[block][4 * (round * (Tile::kStoreTokens / 8) + j)];
        int token, chunk;  // of the row whose address this lane gives; chunk: 16 bytes of its 128
        unsigned char* stretch = staging;
        if constexpr (Tile::kGated) {
#pragma unroll
          for (int g = 0; g < 4; ++g) {
            const auto gated = [](float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; };
            r[g] = pack_bf16(gated(v[4 * g], v[4 * g + 2]), gated(v[4 * g + 1], v[4 * g + 3]));
          }
          token = 8 * j + lane, chunk = block * 4 + warp;
        } else {
          r[0] = pack_bf16(v[0], v[1]), r[1] = pack_bf16(v[2], v[3]);
          r[2] = pack_bf16(v[4], v[5]), r[3] = pack_bf16(v[6], v[7]);
          token = 8 * j + lane / 16 * 8 + lane % 8, chunk = warp * 2 + lane / 8 % 2;
          stretch += block * Tile::kStretchBytes;
        }
        store_matrix_transposed_x4(stretch + token * 128 + ((chunk ^ (token & 7)) << 4), r);
      }
    }
    fence_async_shared();
    barrier_sync(1 + warpgroup, 128);
    const int tokens = token_tile * Tile::kTokens + round * Tile::kStoreTokens;
    if (p.ragged) {  // TMA writes whole 16 bytes: n that is no multiple of 8 is stored by hand
      for (int i = 0; i < Tile::kStretches; ++i) {
        const int output = first_output + 64 * i + (warp * 32 + lane) % 64;
        for (int token = (warp * 32 + lane) / 64; token < Tile::kStoreTokens; token += 2) {
          if (output >= p.n || tokens + token >= p.m) continue;
          const int byte = 2 * (output - first_output - 64 * i);
          p.y_plain[(tokens + token) * p.y_stride + output] = *reinterpret_cast<const bf16*>(
              staging + i * Tile::kStretchBytes + token * 128 + (byte ^ (token & 7) << 4));
        }
      }
      continue;
    }
    if (warp == 0 && lane == 0) {
#pragma unroll
      for (int i = 0; i < Tile::kStretches; ++i) {
        tma_store(&p.y, first_output + 64 * i, tokens, staging + i * Tile::kStretchBytes);
      }
      tma_store_commit();
    }
  }
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1) gemm_kernel(const __grid_constant__ GemmParameters p) {
  if constexpr (kSm90a) {
    extern __shared__ __align__(1024) unsigned char shared[];
    unsigned char* const staging = shared + Tile::kStages * Tile::kStageBytes;
    auto* const full =
        reinterpret_cast<uint64_t*>(staging + Tile::kConsumers * Tile::kStretches * Tile::kStretchBytes);
    uint64_t* const empty = full + Tile::kStages;
    const int rank = Tile::kCluster > 1 ? cluster_rank() : 0;
    const int cluster_count = static_cast<int>(gridDim.x) / Tile::kCluster;
    if (threadIdx.x == 0) {
      for (int i = 0; i < Tile::kStages; ++i) {
        mbarrier_init(&full[i], 1);
        mbarrier_init(&empty[i], Tile::kConsumers * Tile::kCluster);
      }
      mbarrier_init_fence();
    }
    launch_dependents();
    if constexpr (Tile::kCluster > 1) {
      cluster_sync();
    } else {
      __syncthreads();
    }

    if (threadIdx.x < 128) {
      lower_registers<24>();
      if (threadIdx.x == 0) gemm_produce<Tile>(p, shared, full, empty, cluster_count, rank);
    } else {
      raise_registers<240>();
      const int warpgroup = static_cast<int>(threadIdx.x) / 128 - 1,
                warp = static_cast<int>(threadIdx.x) / 32 % 4;
      const int lane = static_cast<int>(threadIdx.x) % 32;
      const int tiles = p.row_clusters * p.token_tiles;
      const auto release = [&](int stage) {  // to the producers of the cluster
        if (threadIdx.x % 128 < Tile::kCluster) {
          if constexpr (Tile::kCluster > 1) {
            mbarrier_arrive_remote(&empty[stage], threadIdx.x % 128);
          } else {
            mbarrier_arrive(&empty[stage]);
          }
        }
      };
      float d[Tile::kRowBlocks][Tile::kTokens / 2];
      uint32_t a[2][Tile::kRowBlocks][2]
                [4];  // of halves of a stage, in turn: one is unpacked while the other is read
      int stage = 0, phase = 0;
      for (int tile = static_cast<int>(blockIdx.x) / Tile::kCluster; tile < tiles; tile += cluster_count) {
        for (int k = 0; k < p.k_blocks; ++k) {
          mbarrier_wait(&full[stage], phase);
          const unsigned char* const x = shared + stage * Tile::kStageBytes;
          const unsigned char* const weights = x + Tile::kXBytes;
          const uint64_t b = wgmma_matrix(x, 1024, Swizzle::bytes_128);
          if constexpr (Tile::kBits == 16) {
            wgmma_fence();
#pragma unroll
            for (int step = 0; step < 4; ++step) {
#pragma unroll
              for (int block = 0; block < Tile::kRowBlocks; ++block) {
                const int row = (warpgroup * Tile::kRowBlocks + block) * 64;
                const uint64_t w = wgmma_matrix(weights + row * 128, 1024, Swizzle::bytes_128);
                wgmma_shared<Tile::kTokens>(d[block], wgmma_advance(w, 32 * step),
                                            wgmma_advance(b, 32 * step), k > 0 || step > 0);
              }
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0) release(stage == 0 ? Tile::kStages - 1 : stage - 1);
          } else {
            uint4 words[Tile::kRowBlocks];
            const auto multiply = [&](uint32_t (&fragments)[Tile::kRowBlocks][2][4], int first_step) {
              wgmma_fence();
#pragma unroll
              for (int step = 0; step < 2; ++step) {
#pragma unroll
                for (int block = 0; block < Tile::kRowBlocks; ++block) {
                  wgmma_register<Tile::kTokens>(d[block], fragments[block][step],
                                                wgmma_advance(b, 32 * (first_step + step)),
                                                k > 0 || first_step + step > 0);
                }
              }
              wgmma_commit();
              wgmma_wait<1>();
            };
            gemm_unpack<Tile, 0>(p, weights, warpgroup, warp, lane, words, a[0]);
            multiply(a[0], 0);
            if (k > 0) release(stage == 0 ? Tile::kStages - 1 : stage - 1);
            gemm_unpack<Tile, 1>(p, weights, warpgroup, warp, lane, words, a[1]);
            multiply(a[1], 2);
          }
          if (++stage == Tile::kStages) stage = 0, phase ^= 1;
        }
        wgmma_wait<0>();
        release(stage == 0 ? Tile::kStages - 1 : stage - 1);
        const TilePosition at = tile_position(tile, p.row_clusters, p.token_tiles);
        gemm_store<Tile>(p, d, staging + warpgroup * Tile::kStretches * Tile::kStretchBytes, warpgroup, warp,
                         lane, at.row_tile * Tile::kCluster + rank, at.token_tile);
      }
      if (warp == 0 && lane == 0) tma_store_wait<0>();
    }
    // No block leaves while a peer may still arrive at its barriers.
    if constexpr (Tile::kCluster > 1) cluster_sync();
  }
}

}  // namespace crosscurrent::cuda
