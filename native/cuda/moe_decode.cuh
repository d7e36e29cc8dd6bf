// moe of few tokens: two streams of weights, each read once. Memory-bound.
//
//   hidden:  a warp takes 8 rows of gate and the same 8 of up of one expert (one m16 tile, so that a lane has
//            both sides of a product), all k, for all tokens of the expert
//   down:    a block takes 16 columns of y; its warps take half the k of one expert at a time; the parts wait
//            in shared memory and are added in order of k, so nothing goes through global memory twice
//
// `W`, the weights: where a tile of 16 rows lies (hidden, down) and its product with tokens (multiply), in
// steps of kColumns of k. multiply calls `begin` for the tokens once the first weights are asked for and,
// where W joins halves, `at_middle` before step `middle`; shared_bytes is what it takes of a block.
#pragma once

#include <algorithm>

#include "act_mul.cuh"
#include "moe_decode.h"
#include "ptx.cuh"

namespace crosscurrent::cuda::moe {

constexpr int kThreads = 32 * kMoeWarps;
constexpr int kMostPairs = 1536;  // whose parts fit the shared memory of a block

// Loads of one warp under way: 16 weights rows x 32 k each. Fewer where accumulators need the registers.
constexpr int depth_of(int token_tiles) { return token_tiles > 2 ? 4 : token_tiles > 1 ? 6 : 8; }
template <int kTokenTiles>
constexpr int kDepth = depth_of(kTokenTiles);

// Of an expert: the rows of its tokens that this lane feeds to the mma, one a tile of eight, or null.
template <int kTokenTiles>
struct Tokens {
  const bf16* rows[kTokenTiles];
  const bf16* base;
  int first, count;

  // Row of pair p: base + p / divisor * stride.
  __device__ Tokens(const ExpertGroups& groups, int index, const bf16* base_, int divisor, int64_t stride)
      : base(base_) {
    first = groups.first[index];
    count = groups.first[index + 1] - first;
    const int column = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
      rows[n] =
          8 * n + column < count ? base + groups.pairs[first + 8 * n + column] / divisor * stride : nullptr;
  }
};

// Of the block: what W takes, then parts of `down`.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char moe_decode_shared[];
  return moe_decode_shared;
}

template <class W, int kMost, bool kIsDown>
constexpr int kSharedBytes = W::shared_bytes(kMost, kIsDown);

// Tiles that a kernel of at most `most` takes the tokens of an expert with. Most experts of a mixed batch
// need one, which leaves registers for more loads under way: a kernel has a loop for each number, the most
// tiles first.
template <int kMost>
__device__ __forceinline__ int tiles_of(const ExpertGroups& groups, int index) {
  const int count = groups.first[index + 1] - groups.first[index];
  return count <= 8 ? 1 : count <= 16 ? 2 : kMost;
}

template <class W, int kTokenTiles, int kMost, bool kGated>
__device__ __forceinline__ void hidden_units(const typename W::Args& a, bf16* hidden) {
  constexpr int kRows = kGated ? 8 : 16;
  const int lane = threadIdx.x % 32, row = lane / 4, column = 8 * (lane % 4);
  const auto tiles = static_cast<int>(a.ff / kRows);
  const int units = a.groups.counts[0] * tiles;
  // neighbouring units on different multiprocessors
  for (int unit = blockIdx.x + gridDim.x * (threadIdx.x / 32); unit < units; unit += gridDim.x * kMoeWarps) {
    const int index = unit / tiles, first_row = unit % tiles * kRows;
    if constexpr (kMost > 1) {
      if (tiles_of<kMost>(a.groups, index) != kTokenTiles) continue;
    }
    float d[kTokenTiles][4] = {};
    int first = 0, count = 0;
    const W weights = W::template hidden<kGated>(a, a.groups.active[index], first_row / kRows);
    weights.template multiply<kMost, false>(
        d, shared_memory(), static_cast<int>(a.dim / W::kColumns),
        [&] {
          const Tokens<kTokenTiles> tokens(a.groups, index, a.x + column, a.top_k, a.dim);
          first = tokens.first;
          count = tokens.count;
          return tokens;
        },
        -1, [] {});
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = 8 * n + 2 * (lane % 4) + i;
        if (token >= count) continue;
        bf16* h = hidden + a.groups.pairs[first + token] * a.ff + first_row + row;
        const float left = activate(a.activation, d[n][i]);
        if constexpr (kGated) {
          h[0] = __float2bfloat16(left * d[n][i + 2]);
        } else {
          h[0] = __float2bfloat16(left);
          h[8] = __float2bfloat16(activate(a.activation, d[n][i + 2]));
        }
      }
    }
  }
}

// A function apart: loops in one body keep each other's values in registers, and spill.
template <class W, int kTokenTiles, int kMost, bool kGated>
__device__ __noinline__ void hidden_loop(const typename W::Args& a, bf16* hidden) {
  hidden_units<W, kTokenTiles, kMost, kGated>(a, hidden);
}

template <class W, int kTokenTiles, bool kGated>
__global__ void __launch_bounds__(kThreads, 1)
    moe_hidden_kernel(const __grid_constant__ typename W::Args a, bf16* hidden) {
  launch_dependents();
  grid_dependency_wait();
  if constexpr (kTokenTiles == 1) {
    hidden_units<W, 1, 1, kGated>(a, hidden);
  } else {
    if constexpr (kTokenTiles > 2) hidden_loop<W, kTokenTiles, kTokenTiles, kGated>(a, hidden);
    hidden_loop<W, 2, kTokenTiles, kGated>(a, hidden);
    hidden_loop<W, 1, kTokenTiles, kGated>(a, hidden);
  }
}

template <class W, int kTokenTiles, int kMost>
__device__ __forceinline__ void down_units(const typename W::Args& a, const bf16* hidden, float* parts) {
  const int lane = threadIdx.x % 32, row = lane / 4, column = 8 * (lane % 4);
  const auto steps = static_cast<int>(a.ff / W::kColumns);
  // Half the k a unit, or, where that leaves a warp enough of them, one half after the other: the same sums.
  const bool joins = W::kJoinsHalves && a.groups.counts[0] >= kMoeWarps;
  const int units = (joins ? 1 : 2) * a.groups.counts[0];
  for (int unit = threadIdx.x / 32; unit < units; unit += kMoeWarps) {
    const int index = joins ? unit : unit / 2, own_half = joins ? 0 : unit % 2;
    if constexpr (kMost > 1) {
      if (tiles_of<kMost>(a.groups, index) != kTokenTiles) continue;
    }
    const int middle = steps / 2, begin = own_half * middle, end = joins || own_half == 1 ? steps : middle;
    float d[kTokenTiles][4] = {};
    int first = 0, count = 0;
    const auto store = [&](int half) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int token = 8 * n + 2 * (lane % 4) + i;
          if (token >= count) continue;
          float* part = parts + (a.groups.pairs[first + token] * 2 + half) * 16 + row;
          part[0] = d[n][i];
          part[8] = d[n][i + 2];
        }
      }
    };
    const W weights = W::down(a, a.groups.active[index], static_cast<int>(blockIdx.x), begin);
    weights.template multiply<kMost, true>(
        d, shared_memory(), end - begin,
        [&] {
          const Tokens<kTokenTiles> tokens(a.groups, index, hidden + W::kColumns * begin + column, 1, a.ff);
          first = tokens.first;
          count = tokens.count;
          return tokens;
        },
        joins ? middle : -1,
        [&] {
          store(0);
#pragma unroll
          for (auto& sums : d) sums[0] = sums[1] = sums[2] = sums[3] = 0;
        });
    store(joins ? 1 : own_half);
  }
}

template <class W, int kTokenTiles, int kMost>
__device__ __noinline__ void down_loop(const typename W::Args& a, const bf16* hidden, float* parts) {
  down_units<W, kTokenTiles, kMost>(a, hidden, parts);
}

template <class W, int kTokenTiles>
__global__ void __launch_bounds__(kThreads, 1)
    moe_down_kernel(const __grid_constant__ typename W::Args a, const bf16* hidden) {
  float* const parts =
      reinterpret_cast<float*>(shared_memory() + kSharedBytes<W, kTokenTiles, true>);  // [pairs, half, 16]
  launch_dependents();
  grid_dependency_wait();
  if constexpr (kTokenTiles == 1) {
    down_units<W, 1, 1>(a, hidden, parts);
  } else {
    if constexpr (kTokenTiles > 2) down_loop<W, kTokenTiles, kTokenTiles>(a, hidden, parts);
    down_loop<W, 2, kTokenTiles>(a, hidden, parts);
    down_loop<W, 1, kTokenTiles>(a, hidden, parts);
  }
  __syncthreads();
  const int first_row = 16 * blockIdx.x;
  for (int i = threadIdx.x; i < 16 * static_cast<int>(a.t); i += kThreads) {
    const int token = i / 16, r = i % 16;
    float y = 0;
    for (int k = 0; k < a.top_k; ++k) {
      const float* part = parts + (token * a.top_k + k) * 32 + r;
      y = __fmaf_rn(a.weights[token * a.top_k + k], __fadd_rn(part[0], part[16]), y);
    }
    a.y[token * a.dim + first_row + r] = __float2bfloat16(y);
  }
}

template <class W, int kTokenTiles>
void run(const typename W::Args& a, bool is_gated, bf16* hidden, cudaStream_t stream) {
  const Arch& arch = current_arch();
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(arch.sms)),
                          .block = dim3(kThreads),
                          .shared_bytes = kSharedBytes<W, kTokenTiles, false>,
                          .stream = stream,
                          .dependent = arch.has_dependent_launch()};
  launch(is_gated ? moe_hidden_kernel<W, kTokenTiles, true> : moe_hidden_kernel<W, kTokenTiles, false>, shape,
         a, hidden);
  launch(moe_down_kernel<W, kTokenTiles>,
         {.grid = dim3(static_cast<unsigned>(a.dim / 16)),
          .block = dim3(kThreads),
          .shared_bytes =
              kSharedBytes<W, kTokenTiles, true> + static_cast<size_t>(a.t * a.top_k) * 32 * sizeof(float),
          .stream = stream,
          .dependent = arch.has_dependent_launch()},
         a, hidden);
}

template <class W>
void run(const typename W::Args& a, bool is_gated, bf16* hidden, cudaStream_t stream) {
  switch (moe_decode_tile(a.t).token_tiles) {
    case 1: return run<W, 1>(a, is_gated, hidden, stream);
    case 2: return run<W, 2>(a, is_gated, hidden, stream);
    case 4: return run<W, 4>(a, is_gated, hidden, stream);
    default: return run<W, 8>(a, is_gated, hidden, stream);
  }
}

// Everything but the weights.
void check_step(const MoeDecodeStep& step, Workspace workspace);

}  // namespace crosscurrent::cuda::moe
