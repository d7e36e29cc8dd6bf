// matmul: y[m, n] = x[m, k] W[n, k]^T (+ bias), all bf16, f32 sums
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "launch.cuh"
#include "packed_matmul.h"

namespace crosscurrent::cuda {

struct MatmulArgs {
  const bf16* weight = nullptr;  // [n, k]
  const bf16* x = nullptr;       // [m, k]
  const bf16* bias = nullptr;    // [n] or null
  bf16* y = nullptr;             // [m, n]
  int64_t m = 0, n = 0, k = 0;
  int64_t weight_stride = 0, x_stride = 0, y_stride = 0;  // elements, multiples of 8
  RowClass row_class = RowClass::prefill;
  bool dependent = false;  // launch programmatically dependent on the kernel before (launch.cuh)
};

size_t matmul_workspace(const MatmulArgs& args);
void matmul(const MatmulArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda
