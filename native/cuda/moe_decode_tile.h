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

// Weights of 4 bits go through a ring of each warp in shared memory. A block of it: 16 rows x 64 columns,
// then scales and zero points; with it eight tokens a tile, or, of more than two tiles, a place for one at a
// time.
constexpr int kMoeInt4Shared = 227 << 10;  // of a block
constexpr int kMoeInt4MostPairs = 1024;    // whose parts of down leave room for the rings
constexpr int kMoeInt4ScaleBytes = 64;     // as many of zero points
constexpr int kMoeInt4WeightBytes = 512 + 2 * kMoeInt4ScaleBytes;
constexpr int kMoeInt4TokenStride = 64 + 8;  // elements; 144 bytes: ldmatrix meets no bank twice
constexpr int kMoeInt4TokenBytes = 8 * kMoeInt4TokenStride * 2;
constexpr int kMoePartBytes = 2 * 16 * 4;  // of a pair in down: both halves of k
constexpr int kMoeMostTopK = 32;

// Bytes of a warp's ring in the kernel for at most `most_tiles` tiles of tokens.
constexpr int moe_int4_ring_bytes(int most_tiles, bool is_down) {
  const int pairs = most_tiles > 2 ? kMoeInt4MostPairs : 8 * most_tiles * kMoeMostTopK;
  return (kMoeInt4Shared - (is_down ? pairs * kMoePartBytes : 0)) / kMoeWarps / 128 * 128;
}

constexpr int moe_int4_stages(int token_tiles, int ring_bytes) {
  const int stages = token_tiles > 2 ? (ring_bytes - kMoeInt4TokenBytes) / kMoeInt4WeightBytes
                                     : ring_bytes / (kMoeInt4WeightBytes + token_tiles * kMoeInt4TokenBytes);
  return stages > 8 ? 8 : stages;
}

}  // namespace crosscurrent::cuda
