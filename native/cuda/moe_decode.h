// moe of few tokens: y = Σ_k weights[k] · down[e_k] · (act(gate[e_k] x) · (up[e_k] x)), e_k = ids[k]
//
// Two launches. A token's bits do not depend on the other tokens: every expert row is one chain over k, and
// the experts of a token are added in order of k.
#pragma once

#include <cuda_runtime.h>

#include "moe_decode_tile.h"
#include "pack.h"
#include "router.h"

namespace crosscurrent::cuda {

struct MoeDecodeStep {
  const bf16* x;         // [t, dim]
  const int32_t* ids;    // [t, top_k]
  const float* weights;  // [t, top_k]
  ExpertGroups groups;   // of ids
  bf16* y;               // [t, dim]
  int64_t t, dim, ff, experts;
  int32_t top_k;
  Activation activation;
};

struct MoeDecodeArgs : MoeDecodeStep {
  const bf16* gate;  // [experts, ff, dim]
  const bf16* up;    // [experts, ff, dim], or null
  const bf16* down;  // [experts, dim, ff]
};

// Experts of 4 bits, each packed by itself (pack.h), one behind the other; dim and ff multiples of 64.
struct MoeDecodeInt4Args : MoeDecodeStep {
  const std::byte* in;    // [experts] packed [2 ff, dim], gate and up; or [ff, dim]
  const std::byte* down;  // [experts] packed [dim, ff]
  bool is_gated;
  int group;  // of k, of all matrices
  bool has_zero;
  ScaleType scale_type;

  PackedShape in_shape() const {
    return {4, is_gated ? 2 * ff : ff, dim, group, has_zero, scale_type, is_gated};
  }
  PackedShape down_shape() const { return {4, dim, ff, group, has_zero, scale_type, false}; }
};

size_t moe_decode_workspace(const MoeDecodeStep& args);
void moe_decode(const MoeDecodeArgs& args, Workspace workspace, cudaStream_t stream);
void moe_decode(const MoeDecodeInt4Args& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda
