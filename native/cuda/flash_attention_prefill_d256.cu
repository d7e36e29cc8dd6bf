// flash_attention_prefill on wgmma, head_dim 256.
#include "flash_attention_prefill_sm90.cuh"

namespace crosscurrent::cuda::prefill {

template void run_sm90<256>(const FlashAttentionPrefillArgs&, Workspace, cudaStream_t);

}  // namespace crosscurrent::cuda::prefill
