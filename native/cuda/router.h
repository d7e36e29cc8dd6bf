// router: the top_k experts of each token and their weights, and who is whose token, for `moe_decode`.
#pragma once

#include <cuda_runtime.h>

#include "../ops.gen.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

constexpr int kRouterMaxExperts = 512;
constexpr int kRouterMaxTopK = 32;
constexpr int kMoeDecodeMaxTokens = 64;

// (token, k) pairs in order of expert; device memory. A pair is token * top_k + k.
struct ExpertGroups {
  int32_t* counts;  // [2]: experts with any pair, pairs
  int32_t* active;  // [min(experts, t * top_k)] those experts, rising
  int32_t* first;   // [active + 1] where the pairs of each begin
  int32_t* pairs;   // [t * top_k] rising within an expert
};

struct RouterArgs {
  DType dtype;         // of the logits: bf16 or f32
  const void* logits;  // [t, experts]
  const float* bias;   // [experts], or null
  int32_t* ids;        // [t, top_k] in falling order of score, ties to the lower index
  float* weights;      // [t, top_k]
  int64_t t, experts;
  int32_t top_k;
  Rule rule;
  bool renormalize;
  float scale;
  ExpertGroups groups;  // filled where counts is not null: at most `kMoeDecodeMaxTokens` tokens
};

void router(const RouterArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
