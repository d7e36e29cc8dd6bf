// embedding: y[t, :] = scale · weight[ids[t], :]
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

struct EmbeddingArgs {
  const int32_t* ids;  // [t]; a row of an id that is not in [0, vocab) becomes NaN
  const bf16* weight;  // [vocab, dim]
  DType dtype;         // of y: bf16 or f32
  void* y;             // [t, dim]
  int64_t t, vocab, dim;
  float scale;
};

void embedding(const EmbeddingArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
