// Arithmetic that the recurrences share. Products and sums are spelled out where prefill, decode and commit
// must give the same bits wherever the compiler puts them.
#pragma once

#include <cuda_bf16.h>

#include "ptx.cuh"

namespace crosscurrent::cuda {

constexpr float kLog2E = 1.44269504f;

__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// ln(1 + e^x) = max(x, 0) + ln(1 + u), u = e^-|x|, and ln(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3: good
// to the far tail, where log2(1 + u) would round to nothing.
__device__ __forceinline__ float softplus(float x) {
  const float u = exp2_fast(__fmul_rn(-fabsf(x), kLog2E));
  const float s = __fmul_rn(u, reciprocal_fast(__fadd_rn(u, 2.0f)));
  const float square = __fmul_rn(s, s);
  float p = __fmaf_rn(0.14095779f, square, 0.13978831f);
  p = __fmaf_rn(p, square, 0.20012558f);
  p = __fmaf_rn(p, square, 0.33333156f);
  p = __fmaf_rn(p, square, 1.0f);
  return __fmaf_rn(__fadd_rn(s, s), p, fmaxf(x, 0.0f));
}

__device__ __forceinline__ float silu(float x) {
  return __fmul_rn(x, reciprocal_fast(__fadd_rn(1.0f, exp2_fast(__fmul_rn(-x, kLog2E)))));
}

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == 4)
    return x;
  else
    return __float2bfloat16_rn(x);
}

// Four neighbours at once; T* aligned to four of them.
__device__ __forceinline__ float4 load4(const float* from) { return *reinterpret_cast<const float4*>(from); }
__device__ __forceinline__ float4 load4(const __nv_bfloat16* from) {
  const uint2 raw = *reinterpret_cast<const uint2*>(from);
  return {__uint_as_float(raw.x << 16), __uint_as_float(raw.x & 0xFFFF0000u), __uint_as_float(raw.y << 16),
          __uint_as_float(raw.y & 0xFFFF0000u)};
}
__device__ __forceinline__ void store4(float* to, float4 v) { *reinterpret_cast<float4*>(to) = v; }
__device__ __forceinline__ void store4(__nv_bfloat16* to, float4 v) {
  *reinterpret_cast<uint2*>(to) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
}

}  // namespace crosscurrent::cuda
