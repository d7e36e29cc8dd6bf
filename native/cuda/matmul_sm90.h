// Launches of the wgmma kernel, a translation unit a weight type (int4_sm90.cu, int8_sm90.cu,
// matmul_sm90.cu).
#pragma once

#include "packed_matmul.h"

namespace crosscurrent::cuda {

// `x`, already in the order of packed columns, stands for args.x.
void int4_sm90(const PackedMatmulArgs& args, const bf16* x, int64_t x_stride, cudaStream_t stream);
void int8_sm90(const PackedMatmulArgs& args, const bf16* x, int64_t x_stride, cudaStream_t stream);

}  // namespace crosscurrent::cuda
