// ssd, prefill: Δ = clamp(softplus(dt + dt_bias), dt_min, dt_max), S = exp(Δ a) S + Δ x bᵀ, y = S c + d x
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"
#include "ssm_sequences.h"

namespace crosscurrent::cuda {

// Device pointers. Activations (x, dt, b, c, y) are all bf16 or all f32; a stride is in elements from token
// to token. Head h uses group h * groups / heads. With bf16, head_dim 64, 64 or 128 states and rows aligned
// to 16 bytes the products run on tensor cores with bf16 operands and f32 sums; any other shape goes token
// after token in f32.
struct SsdArgs {
  DType dtype;
  const void* x;         // [t, heads * head_dim]
  const void* dt;        // [t, heads]
  const float* dt_bias;  // [heads]
  const float* a;        // [heads]
  const void* b;         // [t, groups * states]
  const void* c;         // [t, groups * states]
  const float* d;        // [heads]
  float* s;              // [slots, heads, head_dim, states]
  void* y;               // [t, heads * head_dim]; not x
  int64_t x_stride, dt_stride, b_stride, c_stride, y_stride;
  PrefillSequences sequences;
  int64_t heads, head_dim, groups, states;
  float dt_min, dt_max;
};

// Throw invalid_argument.
size_t ssd_workspace(const SsdArgs& args);
void ssd(const SsdArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda
