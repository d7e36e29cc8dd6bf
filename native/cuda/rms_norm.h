// rms_norm: y = x / sqrt(mean(x²) + eps) · weight, over groups of `width` elements of a row.
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

constexpr int64_t kNormMaxWidth = 32768;

// Device pointers; x, residual, sum and y all of `dtype` (bf16 or f32), rows contiguous.
struct RmsNormArgs {
  DType dtype;
  const void* x;         // [rows, groups * width]
  const void* residual;  // the same, or null; then x + residual is what is normed
  void* sum;             // x + residual, where there is a residual; may be x or residual
  const float* weight;   // [width], or null
  void* y;               // [rows, groups * width]; may be x
  int64_t rows, groups, width;
  float eps;
};

// Bits of an add followed by a norm. Throws invalid_argument.
void rms_norm(const RmsNormArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
