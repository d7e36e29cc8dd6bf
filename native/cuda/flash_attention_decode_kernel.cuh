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
#pragma once

#include <algorithm>

#include "flash_attention_decode_rows.cuh"

namespace crosscurrent::cuda::decode {

template <int kDim, KvType kType>
constexpr int kMostBlocks = decode_most_blocks(kDim, kType);

template <int kDim, int kStages, KvType kType>
__global__ void __launch_bounds__(kDecodeThreads, kMostBlocks<kDim, kType>)
    flash_attention_decode_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) unsigned char shared[];
  using Tiles = Loader<kDim, kType>;
  constexpr int kRing = kStages * 2 * Tiles::kTileBytes;
  float* merge = reinterpret_cast<float*>(shared + kDecodeWarps * kRing);
  auto* stats = reinterpret_cast<float2(*)[kDecodeRows]>(merge + kDecodeWarps * 8 * kDim);
  const int warp = threadIdx.x / 32;
  auto* slots = reinterpret_cast<Slot*>(stats + kDecodeWarps);
  auto* scales = reinterpret_cast<float*>(slots + kDecodeWarps * kStages) + warp * kStages * 2 * kDecodeTile;
  slots += warp * kStages;
  unsigned char* ring = shared + warp * kRing;
  const auto buffers = [&](int stage) {
    unsigned char* const keys = ring + stage * 2 * Tiles::kTileBytes;
    return TileBuffers{keys, keys + Tiles::kTileBytes, scales + stage * 2 * kDecodeTile};
  };

  launch_dependents();
  grid_dependency_wait();
  Tiles loader(p, share_of_block(p, reinterpret_cast<int64_t*>(merge)));
  for (int stage = 0; stage < kStages - 1; ++stage) {
    loader.next(slots[stage], buffers(stage));
    copy_async_commit();
  }
  Rows<kDim, kType> rows(p, merge);
  int stage = 0, behind = kStages - 1;
  while (true) {
    loader.next(slots[behind], buffers(behind));
    copy_async_commit();
    __syncwarp();
    const Slot slot = slots[stage];
    if (slot.flags & kStop) break;
    if (slot.flags & kBegins) rows.begin(slot);
    copy_async_wait<kStages - 1>();
    __syncwarp();
    if (slot.flags & kHasKeys) rows.add(slot, buffers(stage));
    if (slot.flags & kEnds) rows.end(slot, stats, merge);
    __syncwarp();
    behind = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  copy_async_wait<0>();
}

template <int kDim, int kStages, KvType kType>
void run(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  const Arch& arch = current_arch();
  const FlashAttentionDecodeArgs& a = problem.args;
  const int64_t row_tiles = a.sequences.seqs + ceil_div<int64_t>(a.sequences.t * problem.group, kDecodeRows);
  const int64_t units = row_tiles * a.kv_heads * problem.partials.splits;
  launch(flash_attention_decode_kernel<kDim, kStages, kType>,
         {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(units, tile.blocks * arch.sms))),
          .block = dim3(kDecodeThreads),
          .shared_bytes = static_cast<size_t>(tile.shared_bytes),
          .stream = stream,
          .dependent = arch.has_dependent_launch()},
         problem);
  combine(a, problem.partials, stream);
}

template <int kDim, KvType kType>
void with_stages(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  constexpr int kMost = decode_most_stages(kDim, kType), kFewest = decode_fewest_stages(kType);
  tile.stages == kMost ? run<kDim, kMost, kType>(problem, tile, stream)
                       : run<kDim, kFewest, kType>(problem, tile, stream);
}

template <KvType kType>
void with_head_dim(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  switch (problem.args.head_dim) {
    case 64: return with_stages<64, kType>(problem, tile, stream);
    case 96: return with_stages<96, kType>(problem, tile, stream);
    case 128: return with_stages<128, kType>(problem, tile, stream);
    default: return with_stages<256, kType>(problem, tile, stream);
  }
}

}  // namespace crosscurrent::cuda::decode
