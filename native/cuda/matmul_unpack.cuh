// From packed weights (pack.h) to the A operand of mma and wgmma: exact small integers in bf16.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "ptx.cuh"

namespace crosscurrent::cuda {

__device__ __forceinline__ uint32_t subtract_bf16(uint32_t a, uint32_t b) {
  const auto d =
      __hsub2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(d);
}

__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
  const auto d =
      __hmul2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(d);
}

// 128 + q is 0x4300 | q in bf16. A zero point comes as 128 + zero, twice in a register: 8 where there are
// none.
constexpr uint32_t kBiasedZero4 = 0x43084308;

// From byte `index` of four zero points.
__device__ __forceinline__ uint32_t biased_zero(uint32_t zeros, int index) {
  return __byte_perm(zeros, 0x43434343, 0x4040 + 0x0101 * index);
}

template <int kBits>
struct Unpack;

template <>
struct Unpack<4> {
  // 128 + q.
  static __device__ __forceinline__ void biased(uint32_t word, uint32_t (&a)[4]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = logic3<kAndOr>(word >> (4 * i), 0x000F000F, 0x43004300);
  }

  // `low`, `high`: zero points of rows r and r + 8.
  static __device__ __forceinline__ void run(uint32_t word, uint32_t low, uint32_t high, uint32_t (&a)[4]) {
    biased(word, a);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = subtract_bf16(a[i], i % 2 == 0 ? low : high);
  }
};

template <>
struct Unpack<8> {
  // A packed byte is q + 128 = 128 t + s. 128 + s is 0x4300 | s, and 128 or 256 is 0x4300 | !t << 7: their
  // difference is s - 128 !t, which is q.
  static __device__ __forceinline__ void run(uint32_t word0, uint32_t word1, uint32_t (&a)[4]) {
    constexpr int kAndOr = (0xF0 & 0xCC) | 0xAA, kNotAndOr = ((~0xF0 & 0xCC) | 0xAA) & 0xFF;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t word = (i < 2 ? word0 : word1) >> (i % 2 * 8);
      const uint32_t low = logic3<kAndOr>(word, 0x007F007F, 0x43004300);
      const uint32_t high = logic3<kNotAndOr>(word, 0x00800080, 0x43004300);
      a[i] = subtract_bf16(low, high);
    }
  }
};

}  // namespace crosscurrent::cuda
