#include "matmul_stream.cuh"

namespace crosscurrent::cuda {

void int4_stream(const PackedMatmulArgs& args, int tiles, cudaStream_t stream) {
  const bool group32 = args.shape.group == 32;
  if (args.shape.has_zero) {
    return group32 ? dispatch_stream<4, true, true>(args, tiles, stream)
                   : dispatch_stream<4, true, false>(args, tiles, stream);
  }
  group32 ? dispatch_stream<4, false, true>(args, tiles, stream)
          : dispatch_stream<4, false, false>(args, tiles, stream);
}

}  // namespace crosscurrent::cuda
