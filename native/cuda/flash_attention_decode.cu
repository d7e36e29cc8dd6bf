// flash_attention_decode: checks and launch. Its kernel is in flash_attention_decode_kernel.cuh, compiled in
// a file of its own for each type of cache.
#include <algorithm>

#include "flash_attention_decode_loader.cuh"

namespace crosscurrent::cuda {
namespace {

using namespace decode;

void check_args(const FlashAttentionDecodeArgs& a) {
  const AttentionSequences& s = a.sequences;
  check(decode_head_dim_is_known(a.head_dim), "flash_attention_decode: head_dim", "64, 96, 128 or 256",
        a.head_dim);
  check(a.kv_heads >= 1 && a.kv_heads <= 65535, "flash_attention_decode: kv_heads", "1 to 65535", a.kv_heads);
  check(a.heads >= 1 && a.heads <= 65535 && a.heads % a.kv_heads == 0 &&
            a.heads / a.kv_heads <= kDecodeMaxGroup,
        "flash_attention_decode: heads", "1 to 64 times " + std::to_string(a.kv_heads), a.heads);
  check(s.seqs >= 0 && s.seqs <= 65535, "flash_attention_decode: seqs", "0 to 65535", s.seqs);
  check(s.t >= 0 && s.t <= std::min<int64_t>(65535, int64_t{kDecodeMaxNodes} * s.seqs),
        "flash_attention_decode: t", "at most 64 nodes a sequence and 65535", s.t);
  check(s.max_tokens >= 1 && s.max_tokens < (int64_t{1} << 31) - kDecodeSplit,
        "flash_attention_decode: max_tokens", "1 to 2^31 - 257", s.max_tokens);
  check(std::isfinite(a.scale), "flash_attention_decode: scale", "a finite number", a.scale);
  check(a.window >= 0, "flash_attention_decode: window", "0 or more", a.window);
  check(a.softcap >= 0 && std::isfinite(a.softcap), "flash_attention_decode: softcap", "0 or more",
        a.softcap);
}

void check_cache(const KvPages& cache, int64_t head_dim, const AttentionSequences& s, int64_t kv_heads) {
  check_pointer("flash_attention_decode: cache k", cache.k, 16);
  check_pointer("flash_attention_decode: cache v", cache.v, 16);
  check(cache.type == KvType::bf16 || cache.type == KvType::f8 || cache.type == KvType::i8,
        "flash_attention_decode: cache type", "bf16, f8 or i8", static_cast<int>(cache.type));
  const int vector = 16 / kv_bytes(cache.type);
  const auto check_stride = [vector](const char* operand, int64_t stride, int64_t least) {
    check(stride % vector == 0 && stride >= least, operand,
          "a multiple of " + std::to_string(vector) + ", at least " + std::to_string(least), stride);
  };
  check_stride("flash_attention_decode: token_stride", cache.token_stride, head_dim);
  check_stride("flash_attention_decode: head_stride", cache.head_stride, kv_heads > 1 ? head_dim : 0);
  check_stride("flash_attention_decode: page_stride", cache.page_stride, s.seqs > 1 ? head_dim : 0);
  check_scales("flash_attention_decode: ", cache, kv_heads);
  if (cache.pages != nullptr) {
    check_pointer("flash_attention_decode: pages", cache.pages, 4);
    check(cache.page_tokens >= kDecodeTile && (cache.page_tokens & (cache.page_tokens - 1)) == 0,
          "flash_attention_decode: page_tokens", "a power of two, 16 or more", cache.page_tokens);
    check(int64_t{cache.max_pages} * cache.page_tokens >= s.max_tokens, "flash_attention_decode: max_pages",
          "pages for " + std::to_string(s.max_tokens) + " tokens", cache.max_pages);
  }
}

void check_sequences(const AttentionSequences& s) {
  check_pointer("flash_attention_decode: first", s.first, 4);
  check_pointer("flash_attention_decode: length", s.length, 4);
  check_pointer("flash_attention_decode: position", s.position, 4);
  check_pointer("flash_attention_decode: parent", s.parent, 4);
}

int64_t splits_of(const FlashAttentionDecodeArgs& a) {
  return ceil_div<int64_t>(a.sequences.max_tokens, kDecodeSplit);
}

}  // namespace

void check_scales(const std::string& op, const KvPages& cache, int64_t kv_heads) {
  if (cache.type == KvType::bf16) return;
  check_pointer((op + "k_scale").c_str(), cache.k_scale, 4);
  check_pointer((op + "v_scale").c_str(), cache.v_scale, 4);
  if (cache.has_one_scale()) return;
  check(cache.scale_token_stride >= 1, (op + "scale_token_stride").c_str(), "1 or more, or all three 0",
        cache.scale_token_stride);
  check(cache.scale_head_stride >= (kv_heads > 1 ? 1 : 0), (op + "scale_head_stride").c_str(),
        "1 or more, or all three 0", cache.scale_head_stride);
  check(cache.scale_page_stride >= 0, (op + "scale_page_stride").c_str(), "0 or more",
        cache.scale_page_stride);
}

size_t flash_attention_decode_workspace(const FlashAttentionDecodeArgs& args) {
  check_args(args);
  const auto parts = static_cast<size_t>(args.sequences.t * args.heads * splits_of(args));
  return parts * (sizeof(float) * static_cast<size_t>(args.head_dim) + sizeof(float2));
}

void flash_attention_decode(const FlashAttentionDecodeArgs& args, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = flash_attention_decode_workspace(args);
  if (args.sequences.t == 0) return;
  check_pointer("flash_attention_decode: q", args.q, 4);
  check_pointer("flash_attention_decode: y", args.y, 2);
  check(args.q_stride % 2 == 0 && args.q_stride >= args.heads * args.head_dim,
        "flash_attention_decode: q_stride", "even, at least " + std::to_string(args.heads * args.head_dim),
        args.q_stride);
  check(args.y_stride >= args.heads * args.head_dim, "flash_attention_decode: y_stride",
        "at least " + std::to_string(args.heads * args.head_dim), args.y_stride);
  check_sequences(args.sequences);
  check_cache(args.cache, args.head_dim, args.sequences, args.kv_heads);
  check_workspace("flash_attention_decode: workspace", workspace, bytes);
  const FlashAttentionDecodeTile tile =
      flash_attention_decode_tile(current_arch(), args.head_dim, args.cache.type);
  if (tile.stages == 0)
    throw Error(Code::device_unavailable, "flash_attention_decode: shared memory of the device",
                "enough for head_dim " + std::to_string(args.head_dim),
                std::to_string(current_arch().shared_bytes) + " bytes");
  const int64_t splits = splits_of(args);
  Problem problem{args, {}, static_cast<int>(args.heads / args.kv_heads), args.scale * kLog2E};
  if (args.softcap > 0) problem.scale_log2 = args.scale / args.softcap;
  problem.partials.sum = static_cast<float*>(workspace.data);
  problem.partials.stats = reinterpret_cast<float2*>(problem.partials.sum +
                                                     args.sequences.t * args.heads * splits * args.head_dim);
  problem.partials.splits = static_cast<int>(splits);
  switch (args.cache.type) {
    case KvType::bf16: return flash_attention_decode_bf16(problem, tile, stream);
    case KvType::f8: return flash_attention_decode_f8(problem, tile, stream);
    case KvType::i8: return flash_attention_decode_i8(problem, tile, stream);
  }
}

}  // namespace crosscurrent::cuda
