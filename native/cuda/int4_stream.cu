#include "matmul_stream.cuh"

namespace crosscurrent::cuda {

void int4_stream(const PackedMatmulArgs& args, const StreamTile& tile, cudaStream_t stream) {
  args.shape.has_zero ? launch_stream<4, true>(args, tile, stream)
                      : launch_stream<4, false>(args, tile, stream);
}

}  // namespace crosscurrent::cuda
