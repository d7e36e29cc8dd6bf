// rope: rotates the pairs (a, b) of the first 2 half elements of each head by theta = position · inv_freq[i]:
// a' = (a cos - b sin) scale, b' = (b cos + a sin) scale
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

struct RopeArgs {
  DType dtype;              // of x and y: bf16 or f32
  const void* x;            // [t, heads * head_dim], x_stride elements from row to row
  const int32_t* position;  // [t]
  const float* inv_freq;    // [half]
  void* y;                  // [t, heads * head_dim], y_stride; may be x
  int64_t t, heads, half, x_stride, y_stride;
  int32_t head_dim;
  bool interleaved;  // pairs (2 i, 2 i + 1), else (i, i + half)
  float scale;
};

void rope(const RopeArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
