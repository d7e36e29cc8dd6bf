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
  int rows;  // of a thread; a block has 16 times as many

  constexpr int block_rows() const { return rows * kStepThreads / kStepLanes; }
  bool operator==(const SsmStepTile&) const = default;
};

// 64 floats of state a thread at most, with up to 128 states.
constexpr int step_most_rows(int64_t states) { return states > 128 ? 2 : 4; }

// Many rows a thread, so that b and c are read from shared memory less often, or one where blocks are few.
// The bits of a row do not depend on it.
constexpr SsmStepTile ssm_step_tile(const Arch& arch, int64_t heads, int64_t head_dim, int64_t states,
                                    int64_t seqs) {
  const SsmStepTile most{step_most_rows(states)};
  const bool fills = seqs * heads * (head_dim / most.block_rows()) >= 4 * arch.sms;
  return head_dim % most.block_rows() == 0 && fills ? most : SsmStepTile{1};
}

}  // namespace crosscurrent::cuda
