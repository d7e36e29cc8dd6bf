// act_mul: y = act(gate) · up
#pragma once

#include <cuda_runtime.h>

#include "../ops.gen.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

struct ActMulArgs {
  DType dtype;       // bf16 or f32
  const void* gate;  // [rows, ff], gate_stride elements from row to row
  const void* up;    // [rows, ff], up_stride; or null: y = act(gate)
  void* y;           // [rows, ff] contiguous; may be gate where that is contiguous too
  int64_t rows, ff, gate_stride, up_stride;
  Activation activation;
};

void act_mul(const ActMulArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
