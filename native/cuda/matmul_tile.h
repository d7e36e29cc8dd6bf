// Shapes of the matmul kernels: pure functions of architecture and matrix.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arch.h"
#include "pack.h"

namespace crosscurrent::cuda {

// The streaming kernel (matmul_stream.cuh). A block is `n_warps` panels side by side times `k_warps` shares
// of k; `cluster` blocks split k further. Never a function of m: a row has the same bits whatever the batch.
struct StreamTile {
  int n_warps;
  int k_warps;
  int cluster;

  int warps() const { return n_warps * k_warps; }
};

constexpr int kStreamTokens = 16;   // rows of x a pass
constexpr int kSlabColumns = 1024;  // of x kept in shared memory
constexpr int kStreamDepth4 = 4;    // blocks of a warp under way, int4
constexpr int kStreamDepth8 = 2;    // int8

// Wide tiles read x least; then k is split until there is enough work for every multiprocessor: 16 warps
// each.
inline StreamTile stream_tile(const Arch& arch, const PackedShape& s) {
  const int64_t enough = 3 * int64_t{arch.sms} / 2;  // blocks of 8 warps; two fit a multiprocessor
  const auto most_of = [&](int n_warps) {            // a block finishes at least an mma tile: 16 rows
    return arch.has_dependent_launch() ? std::min(8, 4 * n_warps) : 1;
  };
  for (const int n_warps : {4, 2, 1}) {
    const int most = most_of(n_warps);
    const int64_t tiles = ceil_div<int64_t>(s.panels(), n_warps);
    for (int cluster = 1; cluster <= most; cluster *= 2) {
      for (const int warps : {8, 16}) {
        if (warps == 16 && cluster < most) continue;
        const int k_warps = warps / n_warps;
        const bool shares = s.blocks() >= int64_t{k_warps} * cluster;  // every warp gets a block
        if (shares && tiles * cluster * (warps / 8) >= enough) return {n_warps, k_warps, cluster};
      }
    }
  }
  // A small matrix: as many warps as there are blocks.
  int cluster = 1, k_warps = 1;
  while (k_warps < 8 && s.blocks() >= 2 * k_warps) k_warps *= 2;
  while (cluster < most_of(1) && s.blocks() >= int64_t{2} * cluster * k_warps) cluster *= 2;
  return {1, k_warps, cluster};
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
