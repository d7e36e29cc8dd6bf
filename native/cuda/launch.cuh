// What every launcher shares: the workspace, the checks that come before a launch, and the launch.
//
//   check_pointer("int4_matmul: x", args.x, 16);
//   check(args.k % 32 == 0, "int4_matmul: k", "a multiple of 32", args.k);
//   launch(kernel, {.grid = dim3(tiles), .block = dim3(kThreads), .stream = stream}, args.x, args.y);
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <string>
#include <utility>

#include "../error.h"
#include "arch.h"

namespace crosscurrent::cuda {

using bf16 = __nv_bfloat16;

// Scratch memory of a call, owned by the caller, 256-byte aligned. Kernels that count arrivals in it need it
// zeroed once, when it is taken, and leave it zeroed.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

inline void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw Error(Code::internal, std::string(what) + ": " + cudaGetErrorString(status));
}

inline std::string shown(const std::string& value) { return value; }
inline std::string shown(const char* value) { return value; }
template <class T>
std::string shown(T value) {
  return std::to_string(value);
}

template <class T>
void check(bool condition, const char* operand, const std::string& expected, const T& got) {
  if (!condition) throw Error(Code::invalid_argument, operand, expected, shown(got));
}

// Not null, and a multiple of `alignment` bytes.
inline void check_pointer(const char* operand, const void* pointer, size_t alignment) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (pointer != nullptr && address % alignment == 0) return;
  const std::string got = pointer == nullptr ? "null"
                                             : "address mod " + std::to_string(alignment) + " = " +
                                                   std::to_string(address % alignment);
  throw Error(Code::invalid_argument, operand, "a pointer aligned to " + std::to_string(alignment), got);
}

inline void check_workspace(const char* operand, Workspace workspace, size_t bytes) {
  if (bytes == 0) return;
  check_pointer(operand, workspace.data, 256);
  check(workspace.bytes >= bytes, operand, std::to_string(bytes) + " bytes", workspace.bytes);
}

// Of the current device; read once a device.
inline const Arch& current_arch() {
  constexpr int kDevices = 64;
  static const auto read = [](int device) {
    const auto get = [device](cudaDeviceAttr attribute) {
      int value = 0;
      check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
      return value;
    };
    return Arch{
        .compute = 10 * get(cudaDevAttrComputeCapabilityMajor) + get(cudaDevAttrComputeCapabilityMinor),
        .sms = get(cudaDevAttrMultiProcessorCount),
        .shared_bytes = get(cudaDevAttrMaxSharedMemoryPerBlockOptin),
        .l2_bytes = get(cudaDevAttrL2CacheSize)};
  };
  static thread_local Arch archs[kDevices];
  static thread_local bool known[kDevices] = {};
  int device = 0;
  check_cuda(cudaGetDevice(&device), "cudaGetDevice");
  if (device >= kDevices) throw Error(Code::device_unavailable, "more than 64 devices");
  if (!known[device]) {
    archs[device] = read(device);
    known[device] = true;
  }
  return archs[device];
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;  // dynamic
  cudaStream_t stream = nullptr;
  int cluster = 1;  // blocks along x of a thread-block cluster
  // Programmatic dependent launch: the grid may start while the one before it in the stream still runs, and
  // must call `grid_dependency_wait()` (ptx.cuh) before it reads what that one writes.
  bool dependent = false;
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, Arguments&&... arguments) {
  constexpr size_t kStaticLimit = 48 << 10;  // more must be asked for, each kernel once a device
  if (shape.shared_bytes > kStaticLimit) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shape.shared_bytes)),
               "cudaFuncSetAttribute");
    // Else the driver may give a multiprocessor just enough for one block, and no second one beside it.
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                    cudaSharedmemCarveoutMaxShared),
               "cudaFuncSetAttribute");
  }
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  config.attrs = attributes;
  if (shape.cluster > 1) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(shape.cluster);
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  }
  if (shape.dependent) {
    auto& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  check_cuda(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...),
             "launch");
}

}  // namespace crosscurrent::cuda
