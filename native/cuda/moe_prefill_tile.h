// How the experts' MLP of many tokens is cut.
//
// The rows of an expert (its pairs of token and choice) are cut into runs, runs into groups of equal size. A
// group meets one tile of the expert's weights at a time; the groups of a run take that tile side by side, so
// that it is read from memory once.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

struct MoePrefillTile {
  bool has_wgmma;   // else mma.sync
  int group_rows;   // at most
  int weight_rows;  // of a tile: gate and up together, or down
  bool operator==(const MoePrefillTile&) const = default;
};

constexpr int kMoeRunGroups = 8;
constexpr int kMoeMostWidth = 160;  // rows of one block on wgmma: as many accumulators a thread

// wgmma: a cluster of two blocks shares the weights and takes half a group each.
constexpr MoePrefillTile kMoeWgmmaTile{true, 2 * kMoeMostWidth, 256};
constexpr MoePrefillTile kMoeMmaTile{false, 64, 64};

inline MoePrefillTile moe_prefill_tile(const Arch& arch) {
  return arch.has_wgmma() ? kMoeWgmmaTile : kMoeMmaTile;
}

// Columns of the wgmma that holds `rows`; each width is compiled apart (moe_prefill_sm90.cu).
constexpr int moe_wgmma_width(int rows) {
  return std::max(16, rows <= 96 ? round_up(rows, 16) : round_up(rows, 8));
}

// Groups that any routing can give.
constexpr int64_t moe_most_groups(const MoePrefillTile& tile, int64_t pairs, int64_t experts) {
  return std::min(pairs, experts) + pairs / tile.group_rows;
}

// Counting sort of the pairs: stretches of at least 512, at most 128 of them.
constexpr int64_t moe_sort_stretch(int64_t pairs) {
  return round_up<int64_t>(std::max<int64_t>(1, ceil_div<int64_t>(pairs, 128)), 512);
}

}  // namespace crosscurrent::cuda
