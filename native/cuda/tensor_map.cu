#include "launch.cuh"
#include "tensor_map.h"

namespace crosscurrent::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// By way of the runtime, so that nothing links libcuda: it is absent on machines without a driver.
Encode find_encode() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const auto status =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
  if (status != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    throw Error(Code::device_unavailable, "the driver has no cuTensorMapEncodeTiled (CUDA 12 is needed)");
  }
  return reinterpret_cast<Encode>(function);
}

CUtensorMapSwizzle swizzle_of(Swizzle swizzle) {
  switch (swizzle) {
    case Swizzle::none: return CU_TENSOR_MAP_SWIZZLE_NONE;
    case Swizzle::bytes_32: return CU_TENSOR_MAP_SWIZZLE_32B;
    case Swizzle::bytes_64: return CU_TENSOR_MAP_SWIZZLE_64B;
    case Swizzle::bytes_128: return CU_TENSOR_MAP_SWIZZLE_128B;
  }
  return CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

CUtensorMap tensor_map(const void* data, const TensorMapShape& shape) {
  static const Encode encode = find_encode();
  CUtensorMap map;
  const std::array<uint32_t, 4> steps{1, 1, 1, 1};
  const CUresult status =
      encode(&map, shape.type, static_cast<uint32_t>(shape.rank), const_cast<void*>(data), shape.size.data(),
             shape.stride_bytes.data(), shape.box.data(), steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
             swizzle_of(shape.swizzle),
             shape.keep_in_l2 ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_NONE,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw Error(Code::internal, "cuTensorMapEncodeTiled: error " + std::to_string(static_cast<int>(status)));
  }
  return map;
}

}  // namespace crosscurrent::cuda
