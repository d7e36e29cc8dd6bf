// How a decode step of ssd is cut: a block takes some rows of one head of one sequence; eight threads share a
// row.
#pragma once

#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kStepThreads = 128;
constexpr int kStepLanes = 8;  // threads a row
constexpr int kStepMaxStates = 256;

struct SsmStepTile {
  int rows;  // of a thread: 1, 2 or 4; a block has 16 times as many

  constexpr int block_rows() const { return rows * kStepThreads / kStepLanes; }
  bool operator==(const SsmStepTile&) const = default;
};

// As many rows a thread as leave four blocks an SM: b and c are then read from shared memory less often. The
// bits of a row do not depend on it.
constexpr SsmStepTile ssm_step_tile(const Arch& arch, int64_t heads, int64_t head_dim, int64_t states,
                                    int64_t seqs) {
  const int most = states > 128 ? 2 : 4;  // 64 floats of state a thread
  for (int rows = most; rows > 1; rows /= 2) {
    const SsmStepTile tile{rows};
    if (head_dim % tile.block_rows() == 0 && seqs * heads * (head_dim / tile.block_rows()) >= 4 * arch.sms)
      return tile;
  }
  return {1};
}

}  // namespace crosscurrent::cuda
