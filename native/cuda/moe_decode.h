// moe of few tokens: y = Σ_k weights[k] · down[e_k] · (act(gate[e_k] x) · (up[e_k] x)), e_k = ids[k]
//
// Two launches. A token's bits do not depend on the other tokens: every expert row is one chain over k, and
// the experts of a token are added in order of k.
#pragma once

#include <cuda_runtime.h>

#include "moe_decode_tile.h"
#include "router.h"

namespace crosscurrent::cuda {

struct MoeDecodeArgs {
  const bf16* x;         // [t, dim]
  const int32_t* ids;    // [t, top_k]
  const float* weights;  // [t, top_k]
  ExpertGroups groups;   // of ids
  const bf16* gate;      // [experts, ff, dim]
  const bf16* up;        // [experts, ff, dim], or null
  const bf16* down;      // [experts, dim, ff]
  bf16* y;               // [t, dim]
  int64_t t, dim, ff, experts;
  int32_t top_k;
  Activation activation;
};

size_t moe_decode_workspace(const MoeDecodeArgs& args);
void moe_decode(const MoeDecodeArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda
