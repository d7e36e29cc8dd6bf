// Shapes of the matmul kernels: pure functions of architecture and matrix.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"
#include "pack.h"

namespace crosscurrent::cuda {

// The streaming kernel (matmul_stream.cuh).
constexpr int kStreamTokens = 16;  // rows of x a pass
constexpr int kStreamWarps = 8;    // of a block; each takes every eighth stretch of 64 columns

// Tiles of 16 rows of W a block, at most: what registers hold without spills.
constexpr int most_stream_tiles(int64_t m) { return m <= 8 ? 7 : 4; }

// Tiles of 16 rows that hold rows of W.
inline int64_t stream_row_tiles(const PackedShape& s) {
  return s.gated ? ceil_div<int64_t>(s.n / 2, 8) : ceil_div<int64_t>(s.n, kTileRows);
}

// Tiles a block: the fewest with which all blocks run at once, two a multiprocessor. Fewer warps than that do
// not keep memory busy, and more blocks read x more often.
inline int stream_tiles(const Arch& arch, const PackedShape& s, int64_t m) {
  const int64_t fewest = ceil_div<int64_t>(stream_row_tiles(s), 2 * arch.sms);
  return static_cast<int>(std::clamp<int64_t>(fewest, 1, most_stream_tiles(m)));
}

// The wgmma kernel (matmul_sm90.cuh): rows of W times rows of x that a block holds.
enum class GemmShape : uint8_t { rows_128x64, rows_128x128, rows_256x128, gated_256x128 };

// The widest tile that still gives every multiprocessor work.
inline GemmShape gemm_shape(const Arch& arch, const PackedShape& s, int64_t m) {
  if (s.gated) return GemmShape::gated_256x128;
  if (m <= 64) return GemmShape::rows_128x64;
  const int64_t rows = s.panels() * kPanelRows;
  const int64_t wide = ceil_div<int64_t>(rows, 256) * ceil_div<int64_t>(m, 128);
  return wide * 4 >= 3 * arch.sms ? GemmShape::rows_256x128 : GemmShape::rows_128x128;
}

// Of bf16 weights: whether tiles of 128 rows of W times 256 of x fill the multiprocessors.
inline bool gemm_is_wide(const Arch& arch, int64_t m, int64_t n) {
  return m > 128 && ceil_div<int64_t>(n, 128) * ceil_div<int64_t>(m, 256) * 4 >= 3 * arch.sms;
}

}  // namespace crosscurrent::cuda
