// router: a warp a token. The scores of a token lie in the registers of its warp; top_k rounds of a maximum
// over the warp. Latency-bound: with few tokens one block does them all and sorts their pairs by expert.
#include <cmath>

#include "ptx.cuh"
#include "router.h"

namespace crosscurrent::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = 32 * kWarps;
constexpr unsigned kAll = 0xFFFFFFFF;
constexpr int kMostScores = kRouterMaxExperts / 32;  // of a lane

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float sum_of_warp(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAll, x, step);
  return x;
}

// Lane l holds the scores of experts l, l + 32, …
template <int kScores>
__device__ void route(const RouterArgs& a, int64_t token) {
  const int lane = threadIdx.x % 32;
  const auto logit = [&](int expert) {
    const int64_t at = token * a.experts + expert;
    return a.dtype == DType::bf16 ? __bfloat162float(static_cast<const bf16*>(a.logits)[at])
                                  : static_cast<const float*>(a.logits)[at];
  };
  float logits[kScores];
  unsigned left = 0;  // scores that were not chosen
#pragma unroll
  for (int i = 0; i < kScores; ++i) {
    const int expert = lane + 32 * i;
    logits[i] = -INFINITY;
    if (expert < a.experts) {
      logits[i] = logit(expert);
      left |= 1u << i;
    }
  }
  const auto score = [&](int i) {
    if (a.rule != Rule::sigmoid) return logits[i];
    return sigmoid(logits[i]) + (a.bias ? a.bias[lane + 32 * i] : 0.0f);
  };
  float scores[kScores];
#pragma unroll
  for (int i = 0; i < kScores; ++i) scores[i] = (left >> i & 1) != 0 ? score(i) : -INFINITY;

  // Lane k keeps choice k. A NaN counts as the least score, so choices are distinct whatever the logits.
  int chosen = 0;
  float chosen_logit = 0;
  for (int k = 0; k < a.top_k; ++k) {
    float best = -INFINITY, best_logit = 0;
    int best_expert = INT_MAX;
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      if ((left >> i & 1) == 0) continue;
      const float value = isnan(scores[i]) ? -INFINITY : scores[i];
      if (value > best || best_expert == INT_MAX) {
        best = value;
        best_expert = lane + 32 * i;
        best_logit = logits[i];
      }
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(kAll, best, step),
                  other_logit = __shfl_xor_sync(kAll, best_logit, step);
      const int other_expert = __shfl_xor_sync(kAll, best_expert, step);
      if (other > best || (other == best && other_expert < best_expert)) {
        best = other;
        best_expert = other_expert;
        best_logit = other_logit;
      }
    }
    if (best_expert % 32 == lane) left &= ~(1u << best_expert / 32);
    if (lane == k) {
      chosen = best_expert;
      chosen_logit = best_logit;
    }
  }
  const bool mine = lane < a.top_k;
  float weight;
  if (a.rule == Rule::sigmoid) {
    weight = mine ? sigmoid(chosen_logit) : 0.0f;
  } else {
    const float largest = __shfl_sync(kAll, chosen_logit, 0);
    weight = mine ? expf(chosen_logit - largest) : 0.0f;
    float total = 0;
    if (a.rule == Rule::softmax_topk) {
#pragma unroll
      for (int i = 0; i < kScores; ++i)
        if (lane + 32 * i < a.experts) total += expf(logits[i] - largest);
    } else {
      total = weight;
    }
    weight /= sum_of_warp(total);
  }
  const float sum = sum_of_warp(weight) + (a.rule == Rule::sigmoid ? 1e-20f : 0.0f);
  if (!mine) return;
  a.ids[token * a.top_k + lane] = chosen;
  a.weights[token * a.top_k + lane] = (a.renormalize ? weight / sum : weight) * a.scale;
}

// The block: counting sort of at most 64 x 32 pairs.
__device__ void group(const RouterArgs& a) {
  __shared__ int count[kRouterMaxExperts], place[kRouterMaxExperts], warps[2][kWarps];
  const int pairs = static_cast<int>(a.t) * a.top_k, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < kRouterMaxExperts; i += kThreads) count[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < pairs; i += kThreads) atomicAdd(count + a.ids[i], 1);
  __syncthreads();
  // Thread e: expert e. Sums over the experts before it, of pairs and of active ones.
  static_assert(kThreads >= kRouterMaxExperts);
  const int mine = count[threadIdx.x];
  int until = mine, active = mine > 0;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAll, until, step), others = __shfl_up_sync(kAll, active, step);
    if (lane >= step) {
      until += other;
      active += others;
    }
  }
  if (lane == 31) {
    warps[0][warp] = until;
    warps[1][warp] = active;
  }
  __syncthreads();
  for (int i = 0; i < warp; ++i) {
    until += warps[0][i];
    active += warps[1][i];
  }
  if (mine > 0) {
    a.groups.active[active - 1] = threadIdx.x;
    a.groups.first[active - 1] = until - mine;
  }
  place[threadIdx.x] = until - mine;
  if (threadIdx.x == kThreads - 1) {
    a.groups.counts[0] = active;
    a.groups.counts[1] = pairs;
    a.groups.first[active] = pairs;
  }
  __syncthreads();
  // A pair's place: pairs of its expert before it. A warp an expert keeps them in order.
  for (int expert = warp; expert < a.experts; expert += kWarps) {
    if (count[expert] == 0) continue;
    int at = place[expert];
    for (int start = 0; start < pairs; start += 32) {
      const int pair = start + lane;
      const bool is_mine = pair < pairs && a.ids[pair] == expert;
      const unsigned all = __ballot_sync(kAll, is_mine);
      if (is_mine) a.groups.pairs[at + __popc(all & ((1u << lane) - 1))] = pair;
      at += __popc(all);
    }
  }
}

template <int kScores>
__global__ void __launch_bounds__(kThreads, 1) router_kernel(const __grid_constant__ RouterArgs a) {
  launch_dependents();
  grid_dependency_wait();
  const int warps = static_cast<int>(gridDim.x) * kWarps;
  for (int64_t token = blockIdx.x * kWarps + threadIdx.x / 32; token < a.t; token += warps)
    route<kScores>(a, token);
  if (a.groups.counts == nullptr) return;
  __syncthreads();  // ids of all tokens: written by this block
  group(a);
}

}  // namespace

void router(const RouterArgs& a, cudaStream_t stream) {
  check(a.dtype == DType::bf16 || a.dtype == DType::f32, "router: dtype", "bf16 or f32",
        std::string(dtype_info(a.dtype).name));
  check(a.experts >= 1 && a.experts <= kRouterMaxExperts, "router: experts", "1 to 512", a.experts);
  check(a.top_k >= 1 && a.top_k <= std::min<int64_t>(a.experts, kRouterMaxTopK), "router: top_k",
        "1 to " + std::to_string(std::min<int64_t>(a.experts, kRouterMaxTopK)), a.top_k);
  check(a.t >= 0 && a.t <= int64_t{1} << 30, "router: t", "0 to 2^30", a.t);
  const bool groups = a.groups.counts != nullptr;
  if (groups)
    check(a.t <= kMoeDecodeMaxTokens, "router: t with groups",
          "at most " + std::to_string(kMoeDecodeMaxTokens), a.t);
  if (a.t == 0) return;
  check_pointer("router: logits", a.logits, a.dtype == DType::bf16 ? 2 : 4);
  check_pointer("router: ids", a.ids, 4);
  check_pointer("router: weights", a.weights, 4);
  if (groups) {
    check_pointer("router: groups.active", a.groups.active, 4);
    check_pointer("router: groups.first", a.groups.first, 4);
    check_pointer("router: groups.pairs", a.groups.pairs, 4);
  }
  const int64_t blocks =
      groups ? 1 : std::min<int64_t>(ceil_div<int64_t>(a.t, kWarps), 8 * current_arch().sms);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(blocks)),
                          .block = dim3(kThreads),
                          .stream = stream,
                          .dependent = current_arch().has_dependent_launch()};
  if (a.experts <= 64) return launch(router_kernel<2>, shape, a);
  if (a.experts <= 128) return launch(router_kernel<4>, shape, a);
  if (a.experts <= 256) return launch(router_kernel<8>, shape, a);
  launch(router_kernel<kMostScores>, shape, a);
}

}  // namespace crosscurrent::cuda
