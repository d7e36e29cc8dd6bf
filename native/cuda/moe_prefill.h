// moe of many tokens: y = Σ_k weights[k] · down[e_k] · (act(gate[e_k] x) · (up[e_k] x)), e_k = ids[k]
//
// Five launches, whatever the routing: count, place, gate and up, down, combine. The experts of a token are
// added in order of k; a token's bits do not depend on where the sort puts it.
#pragma once

#include <cuda_runtime.h>

#include "../ops.gen.h"
#include "launch.cuh"
#include "moe_prefill_tile.h"

namespace crosscurrent::cuda {

struct MoePrefillArgs {
  const bf16* x;         // [t, dim]
  const int32_t* ids;    // [t, top_k]; one outside 0 … experts - 1 adds nothing
  const float* weights;  // [t, top_k]
  const bf16* gate;      // [experts, ff, dim]
  const bf16* up;        // [experts, ff, dim], or null
  const bf16* down;      // [experts, dim, ff]
  bf16* y;               // [t, dim]
  int32_t* loads;        // [experts] pairs of each, or null
  int64_t t, dim, ff, experts;
  int32_t top_k;
  Activation activation;
};

size_t moe_prefill_workspace(const MoePrefillArgs& args);
void moe_prefill(const MoePrefillArgs& args, Workspace workspace, cudaStream_t stream);

// With a tile other than the device's own, so that one device can check the paths of all.
size_t moe_prefill_workspace(const MoePrefillArgs& args, const MoePrefillTile& tile);
void moe_prefill(const MoePrefillArgs& args, const MoePrefillTile& tile, Workspace workspace,
                 cudaStream_t stream);

}  // namespace crosscurrent::cuda
