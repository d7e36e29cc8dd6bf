// flash_attention_decode, pass 1: one partial result a (row, head, split). Memory-bound: every key and value
// is read once for all the queries of its kv head.
//
//   block: 16 queries (nodes x heads) of one kv head, a run of neighbouring splits
//   warp:  every fourth tile of 16 keys, its own softmax and its own ring of copies: no barrier until a split
//          ends
//   slot:  one tile in the ring; the copies of the next split are under way while the warps merge this one
//
// A tile with drafted keys in it is taken once a node, each time with the keys of that node's own path at
// their logical positions: so every row does the arithmetic of plain decoding. Chains need no such care.
#include <algorithm>

#include "flash_attention_decode_rows.cuh"

namespace crosscurrent::cuda {
namespace {

using namespace decode;

template <int kDim, int kStages>
__global__ void __launch_bounds__(kDecodeThreads, kDim == 256 ? 1 : 2)
    flash_attention_decode_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) unsigned char shared[];
  using Tiles = Loader<kDim>;
  constexpr int kRing = kStages * 2 * Tiles::kTileBytes;
  float* merge = reinterpret_cast<float*>(shared + kDecodeWarps * kRing);
  auto* stats = reinterpret_cast<float2(*)[kDecodeRows]>(merge + kDecodeWarps * 8 * kDim);
  auto* slots = reinterpret_cast<Slot*>(stats + kDecodeWarps) + threadIdx.x / 32 * kStages;
  unsigned char* ring = shared + threadIdx.x / 32 * kRing;
  const auto keys = [&](int stage) { return ring + stage * 2 * Tiles::kTileBytes; };
  const auto values = [&](int stage) { return keys(stage) + Tiles::kTileBytes; };

  launch_dependents();
  grid_dependency_wait();
  Tiles loader(p, share_of_block(p, reinterpret_cast<int64_t*>(merge)));
  for (int stage = 0; stage < kStages - 1; ++stage) {
    loader.next(slots[stage], keys(stage), values(stage));
    copy_async_commit();
  }
  Rows<kDim> rows(p, merge);
  int stage = 0, behind = kStages - 1;
  while (true) {
    loader.next(slots[behind], keys(behind), values(behind));
    copy_async_commit();
    __syncwarp();
    const Slot slot = slots[stage];
    if (slot.flags & kStop) break;
    if (slot.flags & kBegins) rows.begin(slot);
    copy_async_wait<kStages - 1>();
    __syncwarp();
    if (slot.flags & kHasKeys) rows.add(slot, keys(stage), values(stage));
    if (slot.flags & kEnds) rows.end(slot, stats, merge);
    __syncwarp();
    behind = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  copy_async_wait<0>();
}

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
  const auto check_stride = [](const char* operand, int64_t stride, int64_t least) {
    check(stride % 8 == 0 && stride >= least, operand, "a multiple of 8, at least " + std::to_string(least),
          stride);
  };
  check_stride("flash_attention_decode: token_stride", cache.token_stride, head_dim);
  check_stride("flash_attention_decode: head_stride", cache.head_stride, kv_heads > 1 ? head_dim : 0);
  check_stride("flash_attention_decode: page_stride", cache.page_stride, s.seqs > 1 ? head_dim : 0);
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

template <int kDim, int kStages>
void run(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  const Arch& arch = current_arch();
  const FlashAttentionDecodeArgs& a = problem.args;
  const int64_t row_tiles = a.sequences.seqs + ceil_div<int64_t>(a.sequences.t * problem.group, kDecodeRows);
  const int64_t units = row_tiles * a.kv_heads * problem.partials.splits;
  launch(flash_attention_decode_kernel<kDim, kStages>,
         {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(units, tile.blocks * arch.sms))),
          .block = dim3(kDecodeThreads),
          .shared_bytes = static_cast<size_t>(tile.shared_bytes),
          .stream = stream,
          .dependent = arch.has_dependent_launch()},
         problem);
  combine(a, problem.partials, stream);
}

template <int kDim>
void with_stages(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  constexpr int kMost = kDim == 64 ? 6 : 3;
  tile.stages == kMost ? run<kDim, kMost>(problem, tile, stream) : run<kDim, 2>(problem, tile, stream);
}

}  // namespace

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
  const FlashAttentionDecodeTile tile = flash_attention_decode_tile(current_arch(), args.head_dim);
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
  switch (args.head_dim) {
    case 64: return with_stages<64>(problem, tile, stream);
    case 96: return with_stages<96>(problem, tile, stream);
    case 128: return with_stages<128>(problem, tile, stream);
    default: return with_stages<256>(problem, tile, stream);
  }
}

}  // namespace crosscurrent::cuda
