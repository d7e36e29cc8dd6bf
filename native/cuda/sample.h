// sample: one token a row from its logits, by the row's options (native/step.h, src/ops/sample.ts).
#pragma once

#include <cuda_runtime.h>

#include "../step.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

struct SampleArgs {
  const float* logits;           // [rows, vocab], logits_stride elements from row to row
  int32_t* ids;                  // [rows]; -1 where no token can be chosen
  const SampleOptions* options;  // [rows], device memory
  const int32_t* history_first;  // [rows + 1], or null: no penalties
  const int32_t* history;        // ids outside the vocabulary are passed over, here and in the bias
  const int32_t* bias_first;     // [rows + 1], or null: no bias
  const int32_t* bias_ids;
  const float* bias_values;
  int64_t rows, vocab, logits_stride;
};

// The workspace must be zeroed once; it is left zeroed where that matters.
size_t sample_workspace(const SampleArgs& args);
void sample(const SampleArgs& args, Workspace workspace, cudaStream_t stream);

}  // namespace crosscurrent::cuda
