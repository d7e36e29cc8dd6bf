// How the experts' MLP of few tokens is cut.
#pragma once

#include <cstdint>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kMoeWarps = 16;  // of a block; one block a multiprocessor

struct MoeDecodeTile {
  int token_tiles;  // of 8 tokens, of one expert at a time; a power of two
  bool operator==(const MoeDecodeTile&) const = default;
};

// An expert has at most t tokens: enough tiles for all, so that its weights are read once.
constexpr MoeDecodeTile moe_decode_tile(int64_t t) {
  int tiles = 1;
  while (8 * tiles < t) tiles *= 2;
  return {tiles};
}

}  // namespace crosscurrent::cuda
