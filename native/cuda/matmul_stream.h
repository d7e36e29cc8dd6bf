// Launches of the streaming kernel, a translation unit a weight width (int4_stream.cu, int8_stream.cu).
#pragma once

#include "packed_matmul.h"

namespace crosscurrent::cuda {

// `tiles`: of 16 rows of W a block, 1 … most_stream_tiles(m). No bit of y depends on it.
void int4_stream(const PackedMatmulArgs& args, int tiles, cudaStream_t stream);
void int8_stream(const PackedMatmulArgs& args, int tiles, cudaStream_t stream);

}  // namespace crosscurrent::cuda
