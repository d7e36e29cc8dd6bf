// How prefill attention is cut: pure functions of device and head_dim.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr bool prefill_head_dim_is_known(int64_t head_dim) {
  return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

// Panels of 64 columns (128 bytes, one row of the swizzle) that hold a row; the last may be half empty.
constexpr int prefill_panels(int head_dim) { return (head_dim + 63) / 64; }

// The wgmma kernel: a block's queries of one head, 64 a warpgroup, and the keys it takes at a time.
struct FlashAttentionPrefillTile {
  int warpgroups;  // consumers; one more loads
  int keys;
  int stages;        // blocks of keys, and of values, in shared memory
  int query_stages;  // with two, the queries of the next tile are there when it begins
  int consumer_registers, producer_registers;

  constexpr int rows() const { return 64 * warpgroups; }
  constexpr int threads() const { return 128 * (warpgroups + 1); }
  bool operator==(const FlashAttentionPrefillTile&) const = default;
};

// Scores, their weights and the sums of a warpgroup take keys / 2 + keys / 4 + head_dim / 2 registers a
// thread: three warpgroups of at most 160 registers fit at head_dim 64 alone, and 256 leaves room for 64
// keys.
// Softcap and ALiBi (`is_modified`) do not fit 160.
constexpr FlashAttentionPrefillTile flash_attention_prefill_tile(int head_dim, bool is_modified) {
  if (head_dim == 64 && !is_modified) return {3, 128, 4, 2, 160, 32};
  if (head_dim == 64) return {2, 128, 4, 2, 232, 40};
  if (head_dim == 256) return {2, 64, 2, 1, 232, 40};
  return {2, 128, 2, 2, 232, 40};
}

// Panels of y that wait for their store at a time.
constexpr int prefill_output_panels(int head_dim) { return std::min(2, prefill_panels(head_dim)); }

// Queries, stages of keys and values, y; then barriers and the descriptions of tiles.
constexpr int prefill_shared_bytes(int head_dim, bool is_modified) {
  const FlashAttentionPrefillTile tile = flash_attention_prefill_tile(head_dim, is_modified);
  const int panels = prefill_panels(head_dim);
  return 128 * (tile.rows() * (tile.query_stages * panels + prefill_output_panels(head_dim)) +
                2 * tile.keys * tile.stages * panels) +
         512;
}

// The mma.sync kernel (any device from sm_80): 64 queries, and the keys that registers hold scores of.
constexpr int kPrefillMmaRows = 64;

constexpr int prefill_mma_keys(int head_dim) { return head_dim == 256 ? 32 : 64; }

constexpr int prefill_mma_shared_bytes(int head_dim) {
  return (kPrefillMmaRows + 2 * prefill_mma_keys(head_dim)) * 128 * prefill_panels(head_dim);
}

// Kv heads whose queries are taken together, so that the keys and values read by all blocks at one time stay
// in L2: `prefill_section_keys` of one head fill half of it.
constexpr int64_t prefill_section_keys(const Arch& arch, int64_t head_dim) {
  return std::min<int64_t>(arch.l2_bytes / 2 / (4 * head_dim), INT32_MAX);
}

}  // namespace crosscurrent::cuda
