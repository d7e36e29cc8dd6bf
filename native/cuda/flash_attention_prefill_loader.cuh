// flash_attention_prefill on wgmma: what a block holds in shared memory, and the warps that fill it.
#pragma once

#include "flash_attention_prefill.cuh"
#include "tensor_map.h"

namespace crosscurrent::cuda::prefill {

struct Parameters {
  CUtensorMap q, k, v;
  FlashAttentionPrefillArgs args;
  Scores scores;
  int blocks;               // of the grid
  uint32_t* handed_out;     // tiles, but for the first of each block
  int group;                // query heads of a kv head
  int box_log2, page_log2;  // tokens of a TMA load, of a page
  int section_keys;
};

template <int kDimOf, bool kModifiedOf>
struct Layout {
  static constexpr int kDim = kDimOf;
  static constexpr bool kModified = kModifiedOf;
  static constexpr FlashAttentionPrefillTile kTile = flash_attention_prefill_tile(kDim, kModified);
  static constexpr int kRows = kTile.rows(), kKeys = kTile.keys, kStages = kTile.stages;
  static constexpr int kWarpgroups = kTile.warpgroups, kQueryStages = kTile.query_stages;
  // A tile's description outlives its queries: y is stored when the next tile has begun.
  static constexpr int kSlots = 2 * kQueryStages;
  static constexpr int kPanels = prefill_panels(kDim), kOutputPanels = prefill_output_panels(kDim);
  static constexpr int kQueryPanel = 128 * kRows, kKeyPanel = 128 * kKeys;  // bytes of 64 columns
  static constexpr int kQueryBytes = kPanels * kQueryPanel, kStageBytes = kPanels * kKeyPanel;
  // Sums of values: one wgmma a part.
  static constexpr int kParts = kDim == 256 ? 2 : 1, kPart = kDim / kParts;
};

template <class L>
struct Shared {
  unsigned char q[L::kQueryStages][L::kQueryBytes];
  unsigned char k[L::kStages][L::kStageBytes], v[L::kStages][L::kStageBytes];
  unsigned char y[L::kOutputPanels * L::kQueryPanel];
  uint64_t q_full[L::kQueryStages], q_empty[L::kQueryStages];
  uint64_t k_full[L::kStages], k_empty[L::kStages], v_full[L::kStages], v_empty[L::kStages];
  TileRows tiles[L::kSlots];  // no rows: there is none
  int tile_count;
};

// A turn of a ring of stages, a power of two: where, and the parity of its phase.
template <int kStages>
struct Turn {
  unsigned turn = 0;

  __device__ __forceinline__ int stage() const { return static_cast<int>(turn % kStages); }
  __device__ __forceinline__ int parity() const { return static_cast<int>(turn / kStages % 2); }
  __device__ __forceinline__ Turn next() const { return {turn + 1}; }
};

// Keys or values of block `block`: a lane a box (64 columns of a page, or of the block where pages are
// longer).
template <class L>
__device__ __forceinline__ void load_block(const Parameters& p, const CUtensorMap& map, const TileRows& tile,
                                           int block, unsigned char* to, uint64_t* full) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int start = block * L::kKeys, box_tokens = 1 << p.box_log2;
  const int used = min(L::kKeys >> p.box_log2, (tile.end - start + box_tokens - 1) >> p.box_log2);
  if (lane == 0) mbarrier_expect(full, (used * L::kPanels) << (p.box_log2 + 7));
  __syncwarp();
  // lanes of a box are neighbours
  const int panel = lane % L::kPanels, box = lane / L::kPanels;
  if (box >= used) return;
  const KvPages& cache = p.args.cache;
  const int row = start + (box << p.box_log2);
  const int page =
      cache.pages ? cache.pages[int64_t{tile.seq} * cache.max_pages + (row >> p.page_log2)] : tile.seq;
  const int token = cache.pages ? row & (cache.page_tokens - 1) : row;
  tma_load(to + panel * L::kKeyPanel + (box << (p.box_log2 + 7)), &map, 64 * panel, token,
           tile.head / p.group, page, full);
}

// Warp 0: hands out tiles, loads queries and keys.
template <class L>
__device__ __forceinline__ void load_keys(const Parameters& p, Shared<L>& shared) {
  const FlashAttentionPrefillArgs& a = p.args;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  grid_dependency_wait();
  Tiles<L::kRows> tiles(a.sequences, static_cast<int>(a.heads), static_cast<int>(a.kv_heads), p.section_keys);
  if (const int count = tiles.count(); lane == 0) shared.tile_count = count;
  __syncwarp();
  Turn<L::kStages> keys;
  Turn<L::kQueryStages> query;
  int tile = static_cast<int>(blockIdx.x);
  while (true) {
    TileRows rows;
    rows.count = 0;
    if (tile < shared.tile_count) tiles.find(tile, rows);
    mbarrier_wait(&shared.q_empty[query.stage()], query.parity() ^ 1);  // every stage begins empty
    TileRows& own = shared.tiles[query.turn % L::kSlots];
    if (lane == 0) own = rows;
    __syncwarp();
    uint64_t* const full = &shared.q_full[query.stage()];
    if (rows.count == 0) {
      if (lane == 0) mbarrier_arrive(full);
      return;
    }
    if (lane == 0) mbarrier_expect(full, L::kQueryBytes);
    const KeyBlocks blocks(rows.position, rows.end, L::kRows, L::kKeys, a.is_causal, a.window);
    __syncwarp();
    if (lane < L::kPanels)
      tma_load(shared.q[query.stage()] + lane * L::kQueryPanel, &p.q, 64 * lane, own.head, own.row, full);
#pragma unroll 1
    for (int block = blocks.count - 1; block >= blocks.first; --block) {
      mbarrier_wait(&shared.k_empty[keys.stage()], keys.parity() ^ 1);
      load_block<L>(p, p.k, own, block, shared.k[keys.stage()], &shared.k_full[keys.stage()]);
      keys = keys.next();
    }
    uint32_t before = 0;
    if (lane == 0) {
      before = atomicAdd(p.handed_out, 1);
      // every tile was one addition: the last leaves the counter as it was found
      if (before == static_cast<uint32_t>(shared.tile_count) - 1) atomicExch(p.handed_out, 0);
    }
    tile = p.blocks + static_cast<int>(__shfl_sync(kAllLanes, before, 0));
    query = query.next();
  }
}

// Warp 1: values.
template <class L>
__device__ __forceinline__ void load_values(const Parameters& p, Shared<L>& shared) {
  const FlashAttentionPrefillArgs& a = p.args;
  Turn<L::kStages> values;
  Turn<L::kQueryStages> query;
  while (true) {
    mbarrier_wait(&shared.q_full[query.stage()], query.parity());
    const TileRows rows = shared.tiles[query.turn % L::kSlots];
    if (rows.count == 0) return;
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(&shared.q_empty[query.stage()]);
    const KeyBlocks blocks(rows.position, rows.end, L::kRows, L::kKeys, a.is_causal, a.window);
#pragma unroll 1
    for (int block = blocks.count - 1; block >= blocks.first; --block) {
      mbarrier_wait(&shared.v_empty[values.stage()], values.parity() ^ 1);
      load_block<L>(p, p.v, rows, block, shared.v[values.stage()], &shared.v_full[values.stage()]);
      values = values.next();
    }
    query = query.next();
  }
}

}  // namespace crosscurrent::cuda::prefill
