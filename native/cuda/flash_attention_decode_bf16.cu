#include "flash_attention_decode_kernel.cuh"

namespace crosscurrent::cuda {

void flash_attention_decode_bf16(const decode::Problem& problem, const FlashAttentionDecodeTile& tile,
                                 cudaStream_t stream) {
  decode::with_head_dim<KvType::bf16>(problem, tile, stream);
}

}  // namespace crosscurrent::cuda
