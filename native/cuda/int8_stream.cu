#include "matmul_stream.cuh"

namespace crosscurrent::cuda {

void int8_stream(const PackedMatmulArgs& args, int tiles, cudaStream_t stream) {
  args.shape.group == 32 ? dispatch_stream<8, false, true>(args, tiles, stream)
                         : dispatch_stream<8, false, false>(args, tiles, stream);
}

}  // namespace crosscurrent::cuda
