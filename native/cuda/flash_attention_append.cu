// flash_attention_append: rows of the cache, moved where accepted and written where new.
#include <cuda_fp8.h>

#include "flash_attention_decode.cuh"

namespace crosscurrent::cuda {
namespace {

// A thread keeps to its 16 bytes of every row, so its moves need no barrier: rows move down, in rising order.
__global__ void append_kernel(const __grid_constant__ FlashAttentionAppendArgs a) {
  launch_dependents();
  grid_dependency_wait();
  const int seq = blockIdx.x, head = blockIdx.y;
  const auto vectors = static_cast<int>(a.head_dim / 8);
  const bool is_key = static_cast<int>(threadIdx.x) < vectors;
  const int column = 8 * (is_key ? threadIdx.x : threadIdx.x - vectors);
  const auto at = [&](int row) {
    auto* const cache = static_cast<bf16*>(is_key ? a.cache.k : a.cache.v);
    return reinterpret_cast<uint4*>(cache + row_offset(a.cache, page_of(a.cache, seq, row), row) +
                                    head * a.cache.head_stride + column);
  };
  const int length = a.sequences.length[seq], base = committed_tokens(a.sequences, seq);
  for (int i = 0; i < base - length; ++i) {
    const int from = a.accepted[a.sequences.accepted_first[seq] + i];
    if (from != i) *at(length + i) = *at(length + from);
  }
  const int first = a.sequences.first[seq], nodes = a.sequences.first[seq + 1] - first;
  const bf16* rows = is_key ? a.k : a.v;
  const int64_t stride = is_key ? a.k_stride : a.v_stride;
  for (int i = 0; i < nodes; ++i)
    *at(base + i) = *reinterpret_cast<const uint4*>(rows + (first + i) * stride + head * a.head_dim + column);
}

// To the nearest of 8 bits; what is beyond the largest becomes it.
template <KvType kType>
__device__ __forceinline__ uint32_t narrow(float x) {
  if constexpr (kType == KvType::f8) return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
  return static_cast<uint32_t>(min(max(__float2int_rn(x), -127), 127)) & 0xFF;
}

// One warp for keys, one for values: a row's scale is what its lanes agree on. A lane keeps to its 8 bytes of
// every row, as above.
template <KvType kType>
__global__ void __launch_bounds__(64)
    append_scaled_kernel(const __grid_constant__ FlashAttentionAppendArgs a) {
  constexpr int kVectors = 2;  // of 8 elements, of a lane
  constexpr float kLargest = kType == KvType::f8 ? 448.0f : 127.0f;
  launch_dependents();
  grid_dependency_wait();
  const int seq = blockIdx.x, head = blockIdx.y, lane = threadIdx.x % 32;
  const bool is_key = threadIdx.x < 32;
  const auto vectors = static_cast<int>(a.head_dim / 8);
  const auto at = [&](int row, int vector) {
    auto* const cache = static_cast<uint8_t*>(is_key ? a.cache.k : a.cache.v);
    return reinterpret_cast<uint2*>(cache + row_offset(a.cache, page_of(a.cache, seq, row), row) +
                                    head * a.cache.head_stride + 8 * vector);
  };
  const auto scale_at = [&](int row) {
    return (is_key ? a.cache.k_scale : a.cache.v_scale) +
           scale_offset(a.cache, page_of(a.cache, seq, row), row) + head * a.cache.scale_head_stride;
  };
  const bool has_one_scale = a.cache.has_one_scale();
  const int length = a.sequences.length[seq], base = committed_tokens(a.sequences, seq);
  for (int i = 0; i < base - length; ++i) {
    const int from = a.accepted[a.sequences.accepted_first[seq] + i];
    if (from == i) continue;
    for (int vector = lane; vector < vectors; vector += 32)
      *at(length + i, vector) = *at(length + from, vector);
    if (lane == 0 && !has_one_scale) *scale_at(length + i) = *scale_at(length + from);
  }
  const int first = a.sequences.first[seq], nodes = a.sequences.first[seq + 1] - first;
  for (int i = 0; i < nodes; ++i) {
    const bf16* const row = is_key ? a.k + (first + i) * a.k_stride : a.v + (first + i) * a.v_stride;
    uint4 raw[kVectors] = {};
    uint32_t largest = 0;  // magnitudes as integers: a NaN is the largest of all, and stays
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int vector = lane + 32 * j;
      if (vector < vectors) raw[j] = *reinterpret_cast<const uint4*>(row + head * a.head_dim + 8 * vector);
      for (const uint32_t pair : {raw[j].x, raw[j].y, raw[j].z, raw[j].w})
        largest = max(largest, max(pair & 0x7FFF, pair >> 16 & 0x7FFF));
    }
    largest = __reduce_max_sync(0xFFFFFFFF, largest);
    const float scale = has_one_scale ? *scale_at(base + i) : __uint_as_float(largest << 16) / kLargest;
    const float inverse = scale == 0 ? 0.0f : 1.0f / scale;
#pragma unroll
    for (int j = 0; j < kVectors; ++j) {
      const int vector = lane + 32 * j;
      if (vector >= vectors) continue;
      const uint32_t pairs[4] = {raw[j].x, raw[j].y, raw[j].z, raw[j].w};
      uint2 packed = {};
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const uint32_t bits = e % 2 == 0 ? pairs[e / 2] << 16 : pairs[e / 2] & 0xFFFF0000;
        const uint32_t byte = narrow<kType>(__uint_as_float(bits) * inverse);
        (e < 4 ? packed.x : packed.y) |= byte << (8 * (e % 4));
      }
      *at(base + i, vector) = packed;
    }
    if (lane == 0 && !has_one_scale) *scale_at(base + i) = scale;
  }
}

}  // namespace

void flash_attention_append(const FlashAttentionAppendArgs& a, cudaStream_t stream) {
  const AttentionSequences& s = a.sequences;
  check(a.head_dim >= 8 && a.head_dim <= 512 && a.head_dim % 8 == 0, "flash_attention_append: head_dim",
        "a multiple of 8, at most 512", a.head_dim);
  check(a.kv_heads >= 1 && a.kv_heads <= 65535, "flash_attention_append: kv_heads", "1 to 65535", a.kv_heads);
  check(s.seqs >= 0, "flash_attention_append: seqs", "0 or more", s.seqs);
  check(s.t >= 0, "flash_attention_append: t", "0 or more", s.t);
  if (s.seqs == 0) return;
  check_pointer("flash_attention_append: first", s.first, 4);
  check_pointer("flash_attention_append: length", s.length, 4);
  check_pointer("flash_attention_append: cache k", a.cache.k, 16);
  check_pointer("flash_attention_append: cache v", a.cache.v, 16);
  check_scales("flash_attention_append: ", a.cache, a.kv_heads);
  if (s.accepted_first != nullptr) check_pointer("flash_attention_append: accepted", a.accepted, 4);
  if (a.cache.pages != nullptr)
    check(a.cache.page_tokens >= 1 && (a.cache.page_tokens & (a.cache.page_tokens - 1)) == 0,
          "flash_attention_append: page_tokens", "a power of two", a.cache.page_tokens);
  if (s.t > 0) {
    check_pointer("flash_attention_append: k", a.k, 16);
    check_pointer("flash_attention_append: v", a.v, 16);
    const int64_t width = a.kv_heads * a.head_dim;
    check(a.k_stride >= width && a.k_stride % 8 == 0, "flash_attention_append: k_stride",
          "a multiple of 8, at least " + std::to_string(width), a.k_stride);
    check(a.v_stride >= width && a.v_stride % 8 == 0, "flash_attention_append: v_stride",
          "a multiple of 8, at least " + std::to_string(width), a.v_stride);
  }
  const auto run = [&](auto kernel, int64_t threads) {
    launch(kernel,
           {.grid = dim3(static_cast<unsigned>(s.seqs), static_cast<unsigned>(a.kv_heads)),
            .block = dim3(static_cast<unsigned>(threads)),
            .stream = stream,
            .dependent = current_arch().has_dependent_launch()},
           a);
  };
  switch (a.cache.type) {
    case KvType::bf16: return run(append_kernel, a.head_dim / 4);
    case KvType::f8: return run(append_scaled_kernel<KvType::f8>, 64);
    case KvType::i8: return run(append_scaled_kernel<KvType::i8>, 64);
  }
}

}  // namespace crosscurrent::cuda
