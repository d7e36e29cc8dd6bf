// Decode steps of the recurrences: apply the accepted pending nodes, evaluate the new ones, keep their
// inputs.
//
// A node's bits are those of plain decoding, whatever is drafted beside it, accepted, or in the batch. One
// read of the state a step; one write where the state changes (accepted nodes, or a new sequence).
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"
#include "ssm_sequences.h"
#include "ssm_step_tile.h"

namespace crosscurrent::cuda {

// ssd: Δ = clamp(softplus(dt + dt_bias), dt_min, dt_max), S = exp(Δ a) S + Δ x bᵀ, y = S c + d x.
// Device pointers; x, dt, b, c and y all bf16 or all f32, strides in elements from node to node.
struct SsdStepArgs {
  DType dtype;
  const void* x;         // [t, heads * head_dim]
  const void* dt;        // [t, heads]
  const float* dt_bias;  // [heads]
  const float* a;        // [heads]
  const void* b;         // [t, groups * states]
  const void* c;         // [t, groups * states]
  const float* d;        // [heads]
  float* s;              // [slots, heads, head_dim, states]
  PendingRows pending;   // a node: x [heads, head_dim], dt [heads], b [groups, states]
  void* y;               // [t, heads * head_dim]
  int64_t x_stride, dt_stride, b_stride, c_stride, y_stride;
  DecodeSequences sequences;
  int64_t heads, head_dim, groups, states;
  float dt_min, dt_max;
};

// selective_scan: Δ = softplus(dt + dt_bias), h = exp(Δ a) h + Δ b x, y = (Σ_n c[n] h[n] + d x) · silu(z).
struct SelectiveScanStepArgs {
  DType dtype;
  const void* x;         // [t, channels]
  const void* dt;        // [t, channels]
  const float* dt_bias;  // [channels]
  const float* a;        // [channels, states]
  const void* b;         // [t, states]
  const void* c;         // [t, states]
  const float* d;        // [channels]
  const void* z;         // [t, channels], or null
  float* h;              // [slots, channels, states]
  PendingRows pending;   // a node: x [channels], dt [channels], b [states]
  void* y;               // [t, channels]
  int64_t x_stride, dt_stride, b_stride, c_stride, z_stride, y_stride;
  DecodeSequences sequences;
  int64_t channels, states;
};

// Both throw invalid_argument. The workspace counts arrivals: zeroed once, left zeroed. `sequences.t` may be
// 0: the step then only commits.
size_t ssd_step_workspace(const SsdStepArgs& args);
void ssd_step(const SsdStepArgs& args, Workspace workspace, cudaStream_t stream);

size_t selective_scan_step_workspace(const SelectiveScanStepArgs& args);
void selective_scan_step(const SelectiveScanStepArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda
