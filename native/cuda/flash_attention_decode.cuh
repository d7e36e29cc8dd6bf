// flash_attention_decode: what its kernels share.
#pragma once

#include <cmath>
#include <string>

#include "flash_attention_decode.h"
#include "ptx.cuh"

namespace crosscurrent::cuda {

constexpr float kLog2E = 1.4426950408889634f;

// Of one (row of the step, head, split): the weighted sum of values, relative to the largest score, that
// score and the sum of the weights. A row's splits lie side by side.
struct DecodePartials {
  float* sum;     // [t, heads, splits, head_dim]
  float2* stats;  // [t, heads, splits]
  int splits;

  __device__ int64_t at(int64_t row, int64_t heads, int64_t head, int split) const {
    return (row * heads + head) * splits + split;
  }
};

__device__ __forceinline__ int committed_tokens(const AttentionSequences& s, int seq) {
  return s.length[seq] + (s.accepted_first ? s.accepted_first[seq + 1] - s.accepted_first[seq] : 0);
}

__device__ __forceinline__ int lowest_key(int position, int window) {
  return window > 0 ? max(0, position - window + 1) : 0;
}

__device__ __forceinline__ int64_t page_of(const KvPages& cache, int seq, int row) {
  return cache.pages ? cache.pages[static_cast<int64_t>(seq) * cache.max_pages + row / cache.page_tokens]
                     : seq;
}

__device__ __forceinline__ int token_of(const KvPages& cache, int row) {
  return cache.pages ? row & (cache.page_tokens - 1) : row;
}

__device__ __forceinline__ int64_t row_offset(const KvPages& cache, int64_t page, int row) {
  return page * cache.page_stride + token_of(cache, row) * cache.token_stride;
}

__device__ __forceinline__ int64_t scale_offset(const KvPages& cache, int64_t page, int row) {
  return page * cache.scale_page_stride + token_of(cache, row) * cache.scale_token_stride;
}

// exp2(x - max), where both may be minus infinity.
__device__ __forceinline__ float weight_of(float x, float max) {
  return exp2_fast(x - (max == -INFINITY ? 0.0f : max));
}

// `op`: what names of operands begin with.
void check_scales(const std::string& op, const KvPages& cache, int64_t kv_heads);

void combine(const FlashAttentionDecodeArgs& args, const DecodePartials& partials, cudaStream_t stream);

}  // namespace crosscurrent::cuda
