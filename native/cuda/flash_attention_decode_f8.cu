#include "flash_attention_decode_kernel.cuh"

namespace crosscurrent::cuda {

void flash_attention_decode_f8(const decode::Problem& problem, const FlashAttentionDecodeTile& tile,
                               cudaStream_t stream) {
  decode::with_head_dim<KvType::f8>(problem, tile, stream);
}

}  // namespace crosscurrent::cuda
