// selective_scan, prefill: Δ = softplus(dt + dt_bias), h = exp(Δ a) h + Δ b x, y = (Σ_n c[n] h[n] + d x) ·
// silu(z)
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"
#include "selective_scan_tile.h"
#include "ssm_sequences.h"

namespace crosscurrent::cuda {

// Device pointers. Activations (x, dt, b, c, z, y) are all bf16 or all f32; a stride is in elements from
// token to token.
struct SelectiveScanArgs {
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
  void* y;               // [t, channels]; may be z, x or dt
  int64_t x_stride, dt_stride, b_stride, c_stride, z_stride, y_stride;
  PrefillSequences sequences;
  int64_t channels, states;
};

// No workspace. Throws invalid_argument.
void selective_scan(const SelectiveScanArgs& args, cudaStream_t stream);

// With this tile in place of the policy's, for tests and measurements: the bits are the same.
void selective_scan(const SelectiveScanArgs& args, const SelectiveScanTile& tile, cudaStream_t stream);

}  // namespace crosscurrent::cuda
