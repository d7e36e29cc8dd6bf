#include "flash_attention_kernels.h"

namespace crosscurrent::cpu {

const AttentionKernels kAttentionV2 = kAttentionBlocks;

}  // namespace crosscurrent::cpu
