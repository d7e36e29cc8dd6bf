// From arguments to a launch of the wgmma kernel: tensor maps, tile, grid.
#pragma once

#include "matmul_sm90.cuh"

namespace crosscurrent::cuda {

// `weight` and the rest of what depends on its type are the caller's.
template <class Tile>
void launch_gemm(GemmParameters& p, const bf16* x, int64_t x_stride, bf16* y, int64_t y_stride, int64_t m,
                 int64_t n, int64_t k, int64_t rows, bool dependent, cudaStream_t stream) {
  constexpr uint32_t kXTokens = Tile::kTokens / Tile::kCluster;
  p.x = tensor_map(x, {.size = {static_cast<uint64_t>(k), static_cast<uint64_t>(m)},
                       .stride_bytes = {static_cast<uint64_t>(2 * x_stride)},
                       .box = {kBlockColumns, kXTokens}});
  p.y = tensor_map(y, {.size = {static_cast<uint64_t>(n), static_cast<uint64_t>(m)},
                       .stride_bytes = {static_cast<uint64_t>(2 * y_stride)},
                       .box = {64, Tile::kStoreTokens}});
  p.y_plain = y;
  p.y_stride = y_stride;
  p.m = static_cast<int>(m);
  p.n = static_cast<int>(n);
  p.ragged = n % 8 != 0;
  p.k_blocks = static_cast<int>(ceil_div<int64_t>(k, kBlockColumns));
  p.row_clusters = static_cast<int>(ceil_div<int64_t>(rows, Tile::kRows * Tile::kCluster));
  p.token_tiles = static_cast<int>(ceil_div<int64_t>(m, Tile::kTokens));
  const int clusters = p.row_clusters * p.token_tiles;
  const int blocks = std::min(clusters, current_arch().sms / Tile::kCluster) * Tile::kCluster;
  launch(gemm_kernel<Tile>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(Tile::kThreads),
          .shared_bytes = Tile::kSharedBytes,
          .stream = stream,
          .cluster = Tile::kCluster,
          .dependent = dependent},
         p);
}

template <class Tile>
void launch_packed_gemm(const PackedMatmulArgs& a, const bf16* x, int64_t x_stride, cudaStream_t stream) {
  const PackedShape& s = a.shape;
  const auto* const base = static_cast<const std::byte*>(a.weight);
  const auto panels = static_cast<uint64_t>(s.panels()), groups = static_cast<uint64_t>(s.groups());
  const auto panel_bytes = static_cast<uint64_t>(s.blocks() * s.block_bytes());
  GemmParameters p;
  p.weight = tensor_map(base, {.type = CU_TENSOR_MAP_DATA_TYPE_UINT32,
                               .rank = 3,
                               .size = {256, panel_bytes / 1024, panels},
                               .stride_bytes = {1024, panel_bytes},
                               .box = {256, Tile::kPanelBytes / 1024, Tile::kPanels},
                               .swizzle = Swizzle::none});
  p.scales = tensor_map(base + s.scales_offset(), {.type = CU_TENSOR_MAP_DATA_TYPE_UINT16,
                                                   .rank = 3,
                                                   .size = {64, groups, panels},
                                                   .stride_bytes = {128, groups * 128},
                                                   .box = {64, Tile::kScaleSets, Tile::kPanels},
                                                   .swizzle = Swizzle::none});
  p.zeros = p.scales;
  if constexpr (Tile::kZero) {
    p.zeros = tensor_map(base + s.zeros_offset(), {.type = CU_TENSOR_MAP_DATA_TYPE_UINT8,
                                                   .rank = 3,
                                                   .size = {64, groups, panels},
                                                   .stride_bytes = {64, groups * 64},
                                                   .box = {64, Tile::kScaleSets, Tile::kPanels},
                                                   .swizzle = Swizzle::none});
  }
  p.bias = a.bias;
  p.group_log2 = s.group == 32 ? 5 : s.group == 64 ? 6 : 7;
  p.bf16_scales = s.scale_type == ScaleType::bf16;
  launch_gemm<Tile>(p, x, x_stride, a.y, a.y_stride, a.m, s.gated ? s.n / 2 : s.n, s.k,
                    s.panels() * kPanelRows, a.dependent, stream);
}

template <int kBits, bool kZero, bool kGroup32>
void dispatch_packed_gemm(const PackedMatmulArgs& a, const bf16* x, int64_t x_stride, cudaStream_t stream) {
  const GemmShape shape = gemm_shape(current_arch(), a.shape, a.m);
  constexpr int kStages = kBits == 4 ? 5 : 4;
  switch (shape) {
    case GemmShape::gated_256x128:
      return launch_packed_gemm<GemmTile<kBits, kZero, kGroup32, true, 128, 2, kStages, 2>>(a, x, x_stride,
                                                                                            stream);
    case GemmShape::rows_256x128:
      return launch_packed_gemm<GemmTile<kBits, kZero, kGroup32, false, 128, 2, kStages, 2>>(a, x, x_stride,
                                                                                             stream);
    case GemmShape::rows_128x128:
      return launch_packed_gemm<GemmTile<kBits, kZero, kGroup32, false, 128, 1, kStages, 2>>(a, x, x_stride,
                                                                                             stream);
    case GemmShape::rows_128x64:
      return launch_packed_gemm<GemmTile<kBits, kZero, kGroup32, false, 64, 1, 2 * kStages, 2>>(
          a, x, x_stride, stream);
  }
}

}  // namespace crosscurrent::cuda
