// moe_decode: checks, and weights of bf16.
//
// Weights go from global memory straight to registers: within 32 elements of k a lane takes 8 in a row, for
// weights and tokens alike, which is a permutation of k that a product does not see.
#include "moe_decode.cuh"

namespace crosscurrent::cuda {
namespace {

using namespace moe;

struct Bf16Weights {
  using Args = MoeDecodeArgs;
  static constexpr int kColumns = 32;
  static constexpr bool kJoinsHalves = false;
  static constexpr int shared_bytes(int, bool) { return 0; }

  const bf16 *top, *bottom;

  // Tile `tile` of an expert: 8 rows of gate and of up, or 16 of gate.
  template <bool kGated>
  static __device__ __forceinline__ Bf16Weights hidden(const Args& a, int64_t expert, int tile) {
    const int lane = threadIdx.x % 32;
    const int64_t row = expert * a.ff + tile * (kGated ? 8 : 16) + lane / 4,
                  at = row * a.dim + 8 * (lane % 4);
    return {a.gate + at, kGated ? a.up + at : a.gate + at + 8 * a.dim};
  }
  static __device__ __forceinline__ Bf16Weights down(const Args& a, int64_t expert, int tile, int step) {
    const int lane = threadIdx.x % 32;
    const int64_t row = expert * a.dim + 16 * tile + lane / 4;
    const bf16* const at = a.down + row * a.ff + kColumns * step + 8 * (lane % 4);
    return {at, at + 8 * a.ff};
  }

  // `top` and `bottom` are this lane's rows l / 4 and l / 4 + 8, moved to the lane's eight elements. `begin`
  // is called once the first loads are under way and returns the tokens, whose elements are asked for a step
  // or two ahead: an L1 miss a step would stop the stream.
  template <int kMost, bool kIsDown, int kTokenTiles, class Begin, class Middle>
  __device__ __forceinline__ void multiply(float (&d)[kTokenTiles][4], unsigned char*, int steps,
                                           const Begin& begin, int, const Middle&) const {
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
};

void check_sizes(const MoeDecodeStep& a) {
  check(a.t >= 0 && a.t <= kMoeDecodeMaxTokens, "moe_decode: t", "0 to 64", a.t);
  check(a.experts >= 1 && a.experts <= kRouterMaxExperts, "moe_decode: experts", "1 to 512", a.experts);
  check(a.top_k >= 1 && a.top_k <= std::min<int64_t>(a.experts, kRouterMaxTopK), "moe_decode: top_k",
        "1 to " + std::to_string(std::min<int64_t>(a.experts, kRouterMaxTopK)), a.top_k);
  check(a.t * a.top_k <= kMostPairs, "moe_decode: t * top_k", "at most 1536", a.t * a.top_k);
  check(a.dim >= 32 && a.dim % 32 == 0 && a.dim <= 1 << 20, "moe_decode: dim", "a multiple of 32", a.dim);
  check(a.ff >= 32 && a.ff % 32 == 0 && a.ff <= 1 << 20, "moe_decode: ff", "a multiple of 32", a.ff);
}

}  // namespace

size_t moe_decode_workspace(const MoeDecodeStep& args) {
  check_sizes(args);
  return static_cast<size_t>(args.t * args.top_k * args.ff) * sizeof(bf16);
}

namespace moe {

void check_step(const MoeDecodeStep& a, Workspace workspace) {
  check_pointer("moe_decode: x", a.x, 16);
  check_pointer("moe_decode: ids", a.ids, 4);
  check_pointer("moe_decode: weights", a.weights, 4);
  check_pointer("moe_decode: groups.counts", a.groups.counts, 4);
  check_pointer("moe_decode: groups.active", a.groups.active, 4);
  check_pointer("moe_decode: groups.first", a.groups.first, 4);
  check_pointer("moe_decode: groups.pairs", a.groups.pairs, 4);
  check_pointer("moe_decode: y", a.y, 2);
  check_workspace("moe_decode: workspace", workspace, moe_decode_workspace(a));
}

}  // namespace moe

void moe_decode(const MoeDecodeArgs& args, Workspace workspace, cudaStream_t stream) {
  check_sizes(args);
  if (args.t == 0) return;
  check_pointer("moe_decode: gate", args.gate, 16);
  if (args.up != nullptr) check_pointer("moe_decode: up", args.up, 16);
  check_pointer("moe_decode: down", args.down, 16);
  check_step(args, workspace);
  run<Bf16Weights>(args, args.up != nullptr, static_cast<bf16*>(workspace.data), stream);
}

}  // namespace crosscurrent::cuda
