// flash_attention_prefill: what is checked before a launch, and the choice of the kernel.
#include <algorithm>
#include <cmath>

#include "flash_attention_prefill.cuh"

namespace crosscurrent::cuda {
namespace {

void check_shape(const FlashAttentionPrefillArgs& a) {
  const AttentionSequences& s = a.sequences;
  check(prefill_head_dim_is_known(a.head_dim), "flash_attention_prefill: head_dim", "64, 96, 128 or 256",
        a.head_dim);
  check(a.kv_heads >= 1 && a.kv_heads <= 65535, "flash_attention_prefill: kv_heads", "1 to 65535",
        a.kv_heads);
  check(a.heads >= 1 && a.heads <= 65535 && a.heads % a.kv_heads == 0, "flash_attention_prefill: heads",
        "a multiple of " + std::to_string(a.kv_heads) + ", at most 65535", a.heads);
  check(s.seqs >= 0 && s.seqs <= 65535, "flash_attention_prefill: seqs", "0 to 65535", s.seqs);
  // tiles are counted in 32 bits
  const int64_t most = std::max<int64_t>(0, (INT32_MAX / a.heads - s.seqs - 1024) * kPrefillMmaRows);
  check(s.t >= 0 && s.t <= (s.seqs > 0 ? std::min<int64_t>(most, INT32_MAX / 2) : 0),
        "flash_attention_prefill: t", "0 to " + std::to_string(s.seqs > 0 ? most : 0), s.t);
  check(s.max_tokens >= 1 && s.max_tokens < (int64_t{1} << 31) - 1024, "flash_attention_prefill: max_tokens",
        "1 to 2^31 - 1025", s.max_tokens);
  check(std::isfinite(a.scale), "flash_attention_prefill: scale", "a finite number", a.scale);
  check(a.window >= 0 && (a.window == 0 || a.is_causal), "flash_attention_prefill: window",
        "0 or more, and 0 where rows see later keys", a.window);
  check(a.softcap >= 0 && std::isfinite(a.softcap), "flash_attention_prefill: softcap", "0 or more",
        a.softcap);
}

void check_stride(const char* operand, int64_t stride, int64_t least) {
  check(stride % 8 == 0 && stride >= least, operand, "a multiple of 8, at least " + std::to_string(least),
        stride);
}

void check_cache(const FlashAttentionPrefillArgs& a) {
  const KvPages& cache = a.cache;
  check_pointer("flash_attention_prefill: cache k", cache.k, 16);
  check_pointer("flash_attention_prefill: cache v", cache.v, 16);
  check(cache.type == KvType::bf16, "flash_attention_prefill: cache type", "bf16",
        static_cast<int>(cache.type));
  check_stride("flash_attention_prefill: token_stride", cache.token_stride, a.head_dim);
  check_stride("flash_attention_prefill: head_stride", cache.head_stride, a.kv_heads > 1 ? a.head_dim : 0);
  check_stride("flash_attention_prefill: page_stride", cache.page_stride,
               a.sequences.seqs > 1 || cache.pages ? a.head_dim : 0);
  if (cache.pages == nullptr) return;
  check_pointer("flash_attention_prefill: pages", cache.pages, 4);
  check(cache.page_tokens >= 16 && (cache.page_tokens & (cache.page_tokens - 1)) == 0,
        "flash_attention_prefill: page_tokens", "a power of two, 16 or more", cache.page_tokens);
  check(int64_t{cache.max_pages} * cache.page_tokens >= a.sequences.max_tokens,
        "flash_attention_prefill: max_pages",
        "pages for " + std::to_string(a.sequences.max_tokens) + " tokens", cache.max_pages);
}

}  // namespace

size_t flash_attention_prefill_workspace(const FlashAttentionPrefillArgs& args) {
  check_shape(args);
  return 256;
}

void flash_attention_prefill(const FlashAttentionPrefillArgs& a, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = flash_attention_prefill_workspace(a);
  if (a.sequences.t == 0) return;
  check_pointer("flash_attention_prefill: q", a.q, 16);
  check_pointer("flash_attention_prefill: y", a.y, 16);
  check_stride("flash_attention_prefill: q_stride", a.q_stride, a.heads * a.head_dim);
  check_stride("flash_attention_prefill: y_stride", a.y_stride, a.heads * a.head_dim);
  check_pointer("flash_attention_prefill: first", a.sequences.first, 4);
  check_pointer("flash_attention_prefill: length", a.sequences.length, 4);
  check_cache(a);
  check_workspace("flash_attention_prefill: workspace", workspace, bytes);
  const Arch& arch = current_arch();
  check(arch.compute >= 80, "flash_attention_prefill: architecture", "compute capability 8.0 or later",
        arch.compute);
  if (!arch.has_wgmma()) {
    if (prefill_mma_shared_bytes(static_cast<int>(a.head_dim)) > arch.shared_bytes)
      throw Error(Code::device_unavailable, "flash_attention_prefill: shared memory of the device",
                  "enough for head_dim " + std::to_string(a.head_dim),
                  std::to_string(arch.shared_bytes) + " bytes");
    return flash_attention_prefill_mma(a, stream);
  }
  switch (a.head_dim) {
    case 64: return prefill::run_sm90<64>(a, workspace, stream);
    case 96: return prefill::run_sm90<96>(a, workspace, stream);
    case 128: return prefill::run_sm90<128>(a, workspace, stream);
    default: return prefill::run_sm90<256>(a, workspace, stream);
  }
}

}  // namespace crosscurrent::cuda
