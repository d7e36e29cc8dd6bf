// How selective_scan is cut: a block takes `channels` channels of one sequence through all of its tokens, and
// `splits` groups of threads take neighbouring stretches of kScanSteps tokens at a time.
#pragma once

#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kScanSteps = 8;    // tokens a thread holds in registers; the state moves on by these, counted
                                 // from the first token of the call, so no bit depends on the tile
constexpr int kScanRounds = 2;   // stretches of a thread in a tile of tokens
constexpr int kScanStates = 16;  // most states of a channel; four threads hold four each

struct SelectiveScanTile {
  int channels;  // a multiple of 4
  int splits;    // channels * splits is a multiple of 8: whole warps

  bool operator==(const SelectiveScanTile&) const = default;
};

// Those that are compiled: 480 threads each, 128 registers a thread.
constexpr SelectiveScanTile kScanTiles[] = {{12, 10}, {24, 5}, {40, 3}};

// A block an SM: as few channels as fill the device once, or few full rounds of it.
constexpr SelectiveScanTile selective_scan_tile(const Arch& arch, int64_t channels, int64_t seqs) {
  constexpr int64_t kOverhead = 2;  // of a block, in channels
  SelectiveScanTile best = kScanTiles[0];
  int64_t best_cost = INT64_MAX;
  for (const SelectiveScanTile& tile : kScanTiles) {
    const int64_t blocks = ceil_div<int64_t>(channels, tile.channels) * seqs;
    const int64_t cost = ceil_div(blocks, static_cast<int64_t>(arch.sms)) * (tile.channels + kOverhead);
    if (cost > best_cost) continue;
    best = tile;
    best_cost = cost;
  }
  return best;
}

}  // namespace crosscurrent::cuda
