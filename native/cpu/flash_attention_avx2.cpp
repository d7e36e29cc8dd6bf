#include "flash_attention_kernels.h"

namespace crosscurrent::cpu {

const AttentionKernels kAttentionAvx2 = kAttentionBlocks;

}  // namespace crosscurrent::cpu
