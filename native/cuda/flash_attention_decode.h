// flash_attention of decode class: y = softmax(scale q kᵀ + mask) v over a paged cache, few new tokens a
// sequence.
//
// A row sees the committed keys of its sequence, its ancestors in the draft tree and itself. Its bits are
// those of plain decoding, whatever is drafted beside it or in the batch.
#pragma once

#include <cuda_runtime.h>

#include "flash_attention_decode_tile.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

// Where keys and values lie; strides in elements. Row r of sequence s is token r % page_tokens of page
// pages[s, r / page_tokens]; without a table, token r of page s.
//
// An element of f8 or i8 is multiplied by the scale of its row and kv head, which lies at the same page, kv
// head and token. With all three strides 0 there is one scale for all, which the caller sets.
struct KvPages {
  void* k;  // of page 0, kv head 0, token 0
  void* v;
  int64_t page_stride, head_stride, token_stride;
  const int32_t* pages;  // [seqs, max_pages], or null
  int32_t max_pages;
  int32_t page_tokens;  // with a table a power of two, 16 or more
  KvType type = KvType::bf16;
  float* k_scale = nullptr;  // of f8 and i8
  float* v_scale = nullptr;
  int64_t scale_page_stride = 0, scale_head_stride = 0, scale_token_stride = 0;

  __host__ __device__ bool has_one_scale() const {
    return scale_page_stride == 0 && scale_head_stride == 0 && scale_token_stride == 0;
  }
};

// The sequences of a step; arrays in device memory. Committed tokens of s: length[s] + its accepted ones;
// node i of the step (from first[s]) lies in the row behind them.
struct AttentionSequences {
  const int32_t* first;           // [seqs + 1]
  const int32_t* length;          // [seqs]
  const int32_t* accepted_first;  // [seqs + 1], or null: none
  const int32_t* position;        // [t]
  const int32_t* parent;          // [t] index in the step, -1: the last committed token
  int32_t seqs;
  int64_t t;
  int64_t max_tokens;  // rows that a sequence may have, nodes included: sizes the workspace
};

struct FlashAttentionDecodeArgs {
  const bf16* q;  // [t, heads * head_dim]
  KvPages cache;
  const float* sinks;  // [heads], or null
  bf16* y;             // [t, heads * head_dim]
  int64_t q_stride, y_stride;
  AttentionSequences sequences;
  int64_t heads, kv_heads, head_dim;
  float scale;
  int32_t window;  // keys a row sees, itself included; 0: all
  float softcap;   // 0: none
};

// The cache must hold the step's rows already. Throws invalid_argument, or device_unavailable where the
// device has too little shared memory for this head_dim.
size_t flash_attention_decode_workspace(const FlashAttentionDecodeArgs& args);
void flash_attention_decode(const FlashAttentionDecodeArgs& args, Workspace workspace, cudaStream_t stream);

// Moves the accepted rows of the last step into place, then writes this step's keys and values behind them.
// In f8 and i8 the scale of a row is its largest element over 448 or 127, so that nothing saturates; where
// there is one scale for all, what is beyond it does.
struct FlashAttentionAppendArgs {
  const bf16* k;  // [t, kv_heads * head_dim]
  const bf16* v;  // [t, kv_heads * head_dim]
  int64_t k_stride, v_stride;
  KvPages cache;
  AttentionSequences sequences;
  const int32_t* accepted;  // nodes of the last step in rising order, of sequence s from accepted_first[s]
  int64_t kv_heads, head_dim;
};

void flash_attention_append(const FlashAttentionAppendArgs& args, cudaStream_t stream);

}  // namespace crosscurrent::cuda
