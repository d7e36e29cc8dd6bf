// Tensor maps for TMA, made on the host at launch: a kernel takes one as `const __grid_constant__
// CUtensorMap`.
#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

#include "wgmma.cuh"

namespace crosscurrent::cuda {

struct TensorMapShape {
  CUtensorMapDataType type = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  int element_bytes = 2;
  int rank = 2;                            // axes in use, the fastest first
  std::array<uint64_t, 4> size{};          // elements; reads beyond give zeros, writes beyond are dropped
  std::array<uint64_t, 3> stride_bytes{};  // of axes 1 …, multiples of 16
  std::array<uint32_t, 4> box{};           // at most 256 an axis; with a swizzle box[0] is its width
  Swizzle swizzle = Swizzle::bytes_128;
  bool keep_in_l2 = true;  // 256-byte promotion
};

// Throws `Error` when the driver refuses (alignment, limits) or has no TMA.
CUtensorMap tensor_map(const void* data, const TensorMapShape& shape);

}  // namespace crosscurrent::cuda
