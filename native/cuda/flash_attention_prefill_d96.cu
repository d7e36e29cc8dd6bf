// flash_attention_prefill on wgmma, head_dim 96.
#include "flash_attention_prefill_sm90.cuh"

namespace crosscurrent::cuda::prefill {

template void run_sm90<96>(const FlashAttentionPrefillArgs&, Workspace, cudaStream_t);

}  // namespace crosscurrent::cuda::prefill
