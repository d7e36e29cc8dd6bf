// moe of few tokens: two streams of weights, each read once. Memory-bound.
//
//   hidden:  a warp takes 8 rows of gate and the same 8 of up of one expert (one m16 tile, so that a lane
//   holds
//            both sides of a product), all k, for all tokens of the expert
//   down:    a block takes 16 columns of y; its warps take half the k of one expert at a time; the parts wait
//   in
//            shared memory and are added in order of k, so nothing goes through global memory twice
//
// Weights go from global memory straight to registers: within 32 elements of k a lane takes 8 in a row, for
// weights and tokens alike, which is a permutation of k that a product does not see.
#include <algorithm>

#include "act_mul.cuh"
#include "moe_decode.h"
#include "ptx.cuh"

namespace crosscurrent::cuda {
namespace {

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
  int first, count;

  // Row of pair p: base + p / divisor * stride.
  __device__ Tokens(const ExpertGroups& groups, int index, const bf16* base, int divisor, int64_t stride) {
    first = groups.first[index];
    count = groups.first[index + 1] - first;
    const int column = threadIdx.x % 32 / 4;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n)
      rows[n] =
          8 * n + column < count ? base + groups.pairs[first + 8 * n + column] / divisor * stride : nullptr;
  }
};

// d[n] += weights[16 rows, 32 steps] · tokens; `top` and `bottom` are this lane's rows l / 4 and l / 4 + 8,
// all pointers are moved to the lane's eight elements. `begin` is called once the first loads are under way
// and returns the tokens, whose elements are asked for a step or two ahead: an L1 miss a step would stop the
// stream.
template <int kTokenTiles, class Begin>
__device__ __forceinline__ void multiply(float (&d)[kTokenTiles][4], const bf16* top, const bf16* bottom,
                                         int steps, const Begin& begin) {
  constexpr int kAhead = kDepth<kTokenTiles>, kTokensAhead = kTokenTiles > 2 ? 1 : 2;
  constexpr bool kWaits = kTokenTiles > 2;
  static_assert(kAhead % kTokensAhead == 0);
  uint4 w[kAhead][2], x[kTokensAhead][kTokenTiles];
  const auto load = [&](int u, int step) {
    w[u][0] = load_streaming(top + 32 * step);
    w[u][1] = load_streaming(bottom + 32 * step);
  };
#pragma unroll
  for (int u = 0; u < kAhead; ++u)
    if (u < steps) load(u, u);
  const Tokens<kTokenTiles> tokens = begin();
  const auto load_one = [&](uint4& to, int n, int step) {
    to = uint4{};
    if (tokens.rows[n] != nullptr) to = *reinterpret_cast<const uint4*>(tokens.rows[n] + 32 * step);
  };
  const auto load_tokens = [&](uint4(&to)[kTokenTiles], int step) {
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) load_one(to[n], n, step);
  };
#pragma unroll
  for (int u = 0; u < kTokensAhead; ++u)
    if (u < steps && !kWaits) load_tokens(x[u], u);
  for (int base = 0; base < steps; base += kAhead) {
#pragma unroll
    for (int u = 0; u < kAhead; ++u) {
      const int step = base + u;
      if (step >= steps) break;
      const uint32_t low[4] = {w[u][0].x, w[u][1].x, w[u][0].y, w[u][1].y};
      const uint32_t high[4] = {w[u][0].z, w[u][1].z, w[u][0].w, w[u][1].w};
      uint4(&now)[kTokenTiles] = x[u % kTokensAhead];
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
        if (8 * n >= tokens.count) break;
        if constexpr (kWaits) load_one(now[n], n, step);
        mma_bf16(d[n], low, now[n].x, now[n].y);
        mma_bf16(d[n], high, now[n].z, now[n].w);
      }
      if (step + kTokensAhead < steps && !kWaits) load_tokens(now, step + kTokensAhead);
      if (step + kAhead < steps) load(u, step + kAhead);
    }
  }
}

// Tiles that a kernel of at most `most` takes the tokens of an expert with. Most experts of a mixed batch
// need one, which leaves registers for more loads under way: a kernel has a loop for each number, the most
// tiles first.
template <int kMost>
__device__ __forceinline__ int tiles_of(const ExpertGroups& groups, int index) {
  const int count = groups.first[index + 1] - groups.first[index];
  return count <= 8 ? 1 : count <= 16 ? 2 : kMost;
}

template <int kTokenTiles, int kMost, bool kGated>
__device__ __forceinline__ void hidden_units(const MoeDecodeArgs& a, bf16* hidden) {
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
    const int64_t at = (a.groups.active[index] * a.ff + first_row + row) * a.dim + column;
    float d[kTokenTiles][4] = {};
    int first = 0, count = 0;
    multiply(d, a.gate + at, kGated ? a.up + at : a.gate + at + 8 * a.dim, static_cast<int>(a.dim / 32), [&] {
      const Tokens<kTokenTiles> tokens(a.groups, index, a.x + column, a.top_k, a.dim);
      first = tokens.first;
      count = tokens.count;
      return tokens;
    });
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
template <int kTokenTiles, int kMost, bool kGated>
__device__ __noinline__ void hidden_loop(const MoeDecodeArgs& a, bf16* hidden) {
  hidden_units<kTokenTiles, kMost, kGated>(a, hidden);
}

template <int kTokenTiles, bool kGated>
__global__ void __launch_bounds__(kThreads, 1)
    moe_hidden_kernel(const __grid_constant__ MoeDecodeArgs a, bf16* hidden) {
  launch_dependents();
  grid_dependency_wait();
  if constexpr (kTokenTiles == 1) {
    hidden_units<1, 1, kGated>(a, hidden);
  } else {
    if constexpr (kTokenTiles > 2) hidden_loop<kTokenTiles, kTokenTiles, kGated>(a, hidden);
    hidden_loop<2, kTokenTiles, kGated>(a, hidden);
    hidden_loop<1, kTokenTiles, kGated>(a, hidden);
  }
}

template <int kTokenTiles, int kMost>
__device__ __forceinline__ void down_units(const MoeDecodeArgs& a, const bf16* hidden, float* parts) {
  const int lane = threadIdx.x % 32, row = lane / 4, column = 8 * (lane % 4);
  const auto steps = static_cast<int>(a.ff / 32);
  const int units = 2 * a.groups.counts[0], first_row = 16 * blockIdx.x;
  for (int unit = threadIdx.x / 32; unit < units; unit += kMoeWarps) {
    const int index = unit / 2, half = unit % 2;
    if constexpr (kMost > 1) {
      if (tiles_of<kMost>(a.groups, index) != kTokenTiles) continue;
    }
    const int begin = half * (steps / 2), end = half == 0 ? steps / 2 : steps;
    const int64_t at = (a.groups.active[index] * a.dim + first_row + row) * a.ff + 32 * begin + column;
    float d[kTokenTiles][4] = {};
    int first = 0, count = 0;
    multiply(d, a.down + at, a.down + at + 8 * a.ff, end - begin, [&] {
      const Tokens<kTokenTiles> tokens(a.groups, index, hidden + 32 * begin + column, 1, a.ff);
      first = tokens.first;
      count = tokens.count;
      return tokens;
    });
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
  }
}

template <int kTokenTiles, int kMost>
__device__ __noinline__ void down_loop(const MoeDecodeArgs& a, const bf16* hidden, float* parts) {
  down_units<kTokenTiles, kMost>(a, hidden, parts);
}

template <int kTokenTiles>
__global__ void __launch_bounds__(kThreads, 1)
    moe_down_kernel(const __grid_constant__ MoeDecodeArgs a, const bf16* hidden) {
  extern __shared__ float parts[];  // [pairs, half, 16]
  launch_dependents();
  grid_dependency_wait();
  if constexpr (kTokenTiles == 1) {
    down_units<1, 1>(a, hidden, parts);
  } else {
    if constexpr (kTokenTiles > 2) down_loop<kTokenTiles, kTokenTiles>(a, hidden, parts);
    down_loop<2, kTokenTiles>(a, hidden, parts);
    down_loop<1, kTokenTiles>(a, hidden, parts);
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

void check_args(const MoeDecodeArgs& a) {
  check(a.t >= 0 && a.t <= kMoeDecodeMaxTokens, "moe_decode: t", "0 to 64", a.t);
  check(a.experts >= 1 && a.experts <= kRouterMaxExperts, "moe_decode: experts", "1 to 512", a.experts);
  check(a.top_k >= 1 && a.top_k <= std::min<int64_t>(a.experts, kRouterMaxTopK), "moe_decode: top_k",
        "1 to " + std::to_string(std::min<int64_t>(a.experts, kRouterMaxTopK)), a.top_k);
  check(a.t * a.top_k <= kMostPairs, "moe_decode: t * top_k", "at most 1536", a.t * a.top_k);
  check(a.dim >= 32 && a.dim % 32 == 0 && a.dim <= 1 << 20, "moe_decode: dim", "a multiple of 32", a.dim);
  check(a.ff >= 32 && a.ff % 32 == 0 && a.ff <= 1 << 20, "moe_decode: ff", "a multiple of 32", a.ff);
}

template <int kTokenTiles>
void run(const MoeDecodeArgs& a, bf16* hidden, cudaStream_t stream) {
  const Arch& arch = current_arch();
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(arch.sms)),
                          .block = dim3(kThreads),
                          .stream = stream,
                          .dependent = arch.has_dependent_launch()};
  launch(a.up ? moe_hidden_kernel<kTokenTiles, true> : moe_hidden_kernel<kTokenTiles, false>, shape, a,
         hidden);
  launch(moe_down_kernel<kTokenTiles>,
         {.grid = dim3(static_cast<unsigned>(a.dim / 16)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(a.t * a.top_k) * 32 * sizeof(float),
          .stream = stream,
          .dependent = arch.has_dependent_launch()},
         a, hidden);
}

}  // namespace

size_t moe_decode_workspace(const MoeDecodeArgs& args) {
  check_args(args);
  return static_cast<size_t>(args.t * args.top_k * args.ff) * sizeof(bf16);
}

void moe_decode(const MoeDecodeArgs& args, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = moe_decode_workspace(args);
  if (args.t == 0) return;
  check_pointer("moe_decode: x", args.x, 16);
  check_pointer("moe_decode: ids", args.ids, 4);
  check_pointer("moe_decode: weights", args.weights, 4);
  check_pointer("moe_decode: groups.counts", args.groups.counts, 4);
  check_pointer("moe_decode: groups.active", args.groups.active, 4);
  check_pointer("moe_decode: groups.first", args.groups.first, 4);
  check_pointer("moe_decode: groups.pairs", args.groups.pairs, 4);
  check_pointer("moe_decode: gate", args.gate, 16);
  if (args.up != nullptr) check_pointer("moe_decode: up", args.up, 16);
  check_pointer("moe_decode: down", args.down, 16);
  check_pointer("moe_decode: y", args.y, 2);
  check_workspace("moe_decode: workspace", workspace, bytes);
  auto* hidden = static_cast<bf16*>(workspace.data);
  switch (moe_decode_tile(args.t).token_tiles) {
    case 1: return run<1>(args, hidden, stream);
    case 2: return run<2>(args, hidden, stream);
    case 4: return run<4>(args, hidden, stream);
    default: return run<8>(args, hidden, stream);
  }
}

}  // namespace crosscurrent::cuda
