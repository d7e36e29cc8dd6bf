// Launches of the streaming kernel, a translation unit a weight width (int4_stream.cu, int8_stream.cu).
#pragma once

#include "packed_matmul.h"

namespace crosscurrent::cuda {

void int4_stream(const PackedMatmulArgs& args, const StreamTile& tile, cudaStream_t stream);
void int8_stream(const PackedMatmulArgs& args, const StreamTile& tile, cudaStream_t stream);

}  // namespace crosscurrent::cuda
