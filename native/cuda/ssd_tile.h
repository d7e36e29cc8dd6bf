// How ssd is cut along time, and which shapes have the tensor-core path.
//
// Segments of kSsdSegment tokens, counted from the first token of the call, are independent but for the state
// at their start; a panel of up to kSsdPanel of them goes through the workspace at once. No bit depends on
// what else is in the batch, nor on where a prompt is cut at a multiple of kSsdSegment.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kSsdChunk = 64;     // tokens of one set of matrix products
constexpr int kSsdSegment = 512;  // tokens of a block
constexpr int kSsdPanel =
    32;  // segments: bounds the workspace, and fills an H100 with 80 heads almost five times
constexpr int kSsdHeadDim = 64;  // of the tensor-core path
constexpr int kSsdMaxStates = 256;

struct SsdTile {
  bool chunked;        // tensor cores; else token after token
  int pairs;           // of heads a group: a block takes two heads that share b and c
  int64_t segments;    // at most, of all sequences
  int64_t panel;       // segments a panel
  size_t state_bytes;  // of the workspace
  size_t decay_bytes;

  constexpr size_t workspace_bytes() const { return state_bytes + decay_bytes; }
  constexpr int64_t panels() const { return panel == 0 ? 0 : ceil_div(segments, panel); }
};

// `aligned`: bf16, and every row of x, b, c and y starts at a multiple of 16 bytes.
constexpr SsdTile ssd_tile(const Arch& arch, bool aligned, int64_t heads, int64_t head_dim, int64_t groups,
                           int64_t states, int64_t seqs, int64_t t) {
  SsdTile tile{};
  tile.chunked = arch.compute >= 80 && aligned && head_dim == kSsdHeadDim && (states == 64 || states == 128);
  if (!tile.chunked) return tile;
  tile.pairs = static_cast<int>(ceil_div<int64_t>(heads / groups, 2));
  tile.segments = std::min(t, t / kSsdSegment + seqs);  // a sequence has one at least, and one cut short
  tile.panel = std::min<int64_t>(tile.segments, kSsdPanel);
  const auto rows = static_cast<size_t>(tile.panel * heads);
  tile.state_bytes = rows * static_cast<size_t>(head_dim * states) * sizeof(float);
  tile.decay_bytes = round_up<size_t>(rows * sizeof(float), 256);
  return tile;
}

}  // namespace crosscurrent::cuda
