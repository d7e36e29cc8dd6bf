#include "matmul_sm90_launch.cuh"

namespace crosscurrent::cuda {

void int8_sm90(const PackedMatmulArgs& args, const bf16* x, int64_t x_stride, cudaStream_t stream) {
  const bool group32 = args.shape.group == 32;
  group32 ? dispatch_packed_gemm<8, false, true>(args, x, x_stride, stream)
          : dispatch_packed_gemm<8, false, false>(args, x, x_stride, stream);
}

}  // namespace crosscurrent::cuda
