// gated_rms_norm: h = x · silu(z), y = h / sqrt(mean(h²) + eps) · weight, over groups of `width` elements of
// a row.
#pragma once

#include <cuda_runtime.h>

#include "rms_norm.h"

namespace crosscurrent::cuda {

struct GatedRmsNormArgs {
  DType dtype;          // of x, z and y: bf16 or f32
  const void* x;        // [rows, groups * width]
  const void* z;        // [rows, groups * width], z_stride elements from row to row
  const float* weight;  // [groups * width]
  void* y;              // [rows, groups * width]; may be x
  int64_t rows, groups, width, z_stride;
  float eps;
};

void gated_rms_norm(const GatedRmsNormArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
