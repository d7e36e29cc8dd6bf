// Rows of bf16 or f32 as float vectors, and sums over a block.
#pragma once

#include <string>

#include "../dtype.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

__device__ __forceinline__ float as_float(float x) { return x; }
__device__ __forceinline__ float as_float(bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else
    return __float2bfloat16(x);
}

// `kCount` elements at an address aligned to all of them together.
template <class T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) RowVector {
  T values[kCount];

  __device__ float operator[](int i) const { return as_float(values[i]); }
  __device__ void set(int i, float x) { values[i] = from_float<T>(x); }
  __device__ static RowVector load(const T* from) { return *reinterpret_cast<const RowVector*>(from); }
  __device__ void store(T* to) const { *reinterpret_cast<RowVector*>(to) = *this; }
};

// Of a block of whole warps, to every thread; the order depends on the number of threads alone.
__device__ __forceinline__ float sum_of_block(float x, float* shared) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xFFFFFFFF, x, step);
  const int warps = blockDim.x / 32;
  if (warps == 1) return x;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < warps; ++i) total += shared[i];
  return total;
}

inline void check_dtype(const char* operand, DType dtype) {
  check(dtype == DType::bf16 || dtype == DType::f32, operand, "bf16 or f32",
        std::string(dtype_info(dtype).name));
}

inline size_t element_bytes(DType dtype) { return dtype == DType::bf16 ? 2 : 4; }

// Whether rows of `width` elements can be read eight at a time from each of the pointers (null ones do not
// count).
template <class... Pointers>
bool takes_vectors(DType dtype, int64_t width, Pointers... pointers) {
  const size_t bytes = 8 * element_bytes(dtype) < 16 ? 8 * element_bytes(dtype) : 16;
  return width % 8 == 0 && ((reinterpret_cast<uintptr_t>(pointers) % bytes == 0) && ...);
}

}  // namespace crosscurrent::cuda
