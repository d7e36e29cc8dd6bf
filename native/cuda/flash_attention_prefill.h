// flash_attention of prefill class: y = softmax(scale q kᵀ + mask) v, many new tokens a sequence.
//
// f32 sums, weights rounded to bf16 before they meet v, as in FlashAttention-3 (Shah et al. 2024,
// arXiv:2407.08608). The order of sums depends on where a row lies in its tile.
#pragma once

#include <cuda_runtime.h>

#include "flash_attention_decode.h"
#include "flash_attention_prefill_tile.h"

namespace crosscurrent::cuda {

struct FlashAttentionPrefillArgs {
  const bf16* q;        // [t, heads * head_dim]
  KvPages cache;        // holds the step's rows already; pages within 128 keys of a window must be there too
  const float* sinks;   // [heads], or null
  const float* slopes;  // [heads] of ALiBi: score - slope |position - key|; or null
  bf16* y;              // [t, heads * head_dim]
  int64_t q_stride, y_stride;
  AttentionSequences sequences;  // position and parent are not read: token i of a step follows token i - 1
  int64_t heads, kv_heads, head_dim;
  float scale;
  bool is_causal;  // else every row sees all keys of its sequence
  int32_t window;  // causal: keys a row sees, itself included; 0: all
  float softcap;   // 0: none
};

// The workspace counts the tiles handed out. Throws invalid_argument, or device_unavailable where the device
// has too little shared memory for this head_dim.
size_t flash_attention_prefill_workspace(const FlashAttentionPrefillArgs& args);
void flash_attention_prefill(const FlashAttentionPrefillArgs& args, Workspace workspace, cudaStream_t stream);

// The path of devices without wgmma, which runs on all of them: for comparison.
void flash_attention_prefill_mma(const FlashAttentionPrefillArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
