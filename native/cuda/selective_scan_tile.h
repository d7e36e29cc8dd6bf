// How selective_scan is cut: a block takes `channels` channels of one sequence through all of its tokens, and
// `splits` groups of threads take neighbouring stretches of kScanSteps tokens at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kScanSteps = 8;  // tokens a thread holds in registers; the state moves on by these at absolute
                               // positions of the call, so no bit depends on the tile
constexpr int kScanStates = 16;  // most states of a channel; four threads hold four each
constexpr int kScanThreads = 512;

struct SelectiveScanTile {
  int channels;  // a multiple of 4
  int splits;    // channels * splits is a multiple of 8: whole warps

  constexpr int threads() const { return 4 * channels * splits; }
  constexpr int steps() const { return splits * kScanSteps; }
  bool operator==(const SelectiveScanTile&) const = default;
};

// Bytes of dynamic shared memory; `element_bytes` of an activation.
constexpr size_t selective_scan_shared_bytes(const SelectiveScanTile& tile, size_t element_bytes) {
  const size_t steps = static_cast<size_t>(tile.steps()), channels = static_cast<size_t>(tile.channels);
  const size_t splits = static_cast<size_t>(tile.splits);
  return 9 * steps * channels * element_bytes                 // x, dt and z of three tiles
         + 2 * 2 * steps * kScanStates * (4 + element_bytes)  // b and c of two, as they come and as f32
         + channels * splits * 2 * kScanSteps * 4             // softplus(dt), times x
         + channels * splits * 2 * kScanStates * 4            // what each stretch does to the state
         + 2 * channels * kScanStates * 4;                    // the state before the tile
}

// A block an SM: as few channels as fill the device once, or few full rounds of it. With few tokens a
// sequence, fewer splits.
constexpr SelectiveScanTile selective_scan_tile(const Arch& arch, int64_t channels, int64_t seqs, int64_t t) {
  constexpr int kMostChannels = 64;
  constexpr int kMostSplits = 16;
  constexpr int64_t kOverhead = 2;  // of a tile, in channels
  int best = 4;
  int64_t best_cost = INT64_MAX;
  for (int c = 4; c <= kMostChannels; c += 4) {
    const int64_t rounds = ceil_div(ceil_div<int64_t>(channels, c) * seqs, static_cast<int64_t>(arch.sms));
    const int64_t cost = rounds * (c + kOverhead);
    if (cost <= best_cost) {
      best = c;
      best_cost = cost;
    }
  }
  const int64_t stretches =
      ceil_div(ceil_div(t, std::max<int64_t>(seqs, 1)), static_cast<int64_t>(kScanSteps));
  int splits = std::min(kScanThreads / (4 * best), kMostSplits);
  splits = static_cast<int>(std::clamp<int64_t>(stretches, 1, splits));
  if (best % 8 != 0) splits = std::max(2, splits / 2 * 2);
  return {best, splits};
}

}  // namespace crosscurrent::cuda
