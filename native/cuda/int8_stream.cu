#include "matmul_stream.cuh"

namespace crosscurrent::cuda {

void int8_stream(const PackedMatmulArgs& args, const StreamTile& tile, cudaStream_t stream) {
  launch_stream<8, false>(args, tile, stream);
}

}  // namespace crosscurrent::cuda
