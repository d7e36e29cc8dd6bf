// Eight f32 lanes by the compilers' vector extensions: one source for every instruction-set level.
//
// Everything is in an unnamed namespace: a level's code must not be linked into another level's file (see
// isa.h). Lanes and orders are the same at every level; only `fma` differs: fused where the level has it.
#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace crosscurrent::cpu {
namespace {

typedef float F32x8 __attribute__((vector_size(32)));
typedef int32_t I32x8 __attribute__((vector_size(32)));
typedef uint32_t U32x8 __attribute__((vector_size(32)));
typedef float F32x4 __attribute__((vector_size(16)));

constexpr int kLanes = 8;

inline F32x8 splat(float x) { return F32x8{x, x, x, x, x, x, x, x}; }

inline F32x8 load8(const float* from) {
  F32x8 value;
  memcpy(&value, from, sizeof value);
  return value;
}

inline void store8(float* to, F32x8 value) { memcpy(to, &value, sizeof value); }

// Lanes from `count` on are `rest`.
inline F32x8 load_part(const float* from, int count, float rest) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < count ? from[i] : rest;
  return load8(lanes);
}

inline void store_part(float* to, F32x8 value, int count) {
  float lanes[kLanes];
  store8(lanes, value);
  for (int i = 0; i < count; ++i) to[i] = lanes[i];
}

inline I32x8 bits_of(F32x8 value) { return (I32x8)value; }
inline F32x8 from_bits(I32x8 bits) { return (F32x8)bits; }

// Lane-wise `mask ? a : b`; masks are all ones or zeros, as comparisons give them.
inline F32x8 select(I32x8 mask, F32x8 a, F32x8 b) {
  return from_bits((mask & bits_of(a)) | (~mask & bits_of(b)));
}

// The second operand where the first is NaN.
inline F32x8 max8(F32x8 a, F32x8 b) {
#if defined(__AVX2__)
  return _mm256_max_ps(a, b);
#else
  return select(a > b, a, b);
#endif
}

inline F32x8 fma8(F32x8 a, F32x8 b, F32x8 c) {
#if defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline float fma1(float a, float b, float c) {
#if defined(__FMA__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

inline F32x4 low_half(F32x8 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
inline F32x4 high_half(F32x8 v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }

// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
inline float sum8(F32x8 v) {
  const F32x4 half = low_half(v) + high_half(v);
  return (half[0] + half[2]) + (half[1] + half[3]);
}

inline float max_lane(F32x8 v) {
  const F32x4 low = low_half(v), high = high_half(v);
  const auto larger = [](float a, float b) { return a > b ? a : b; };
  return larger(larger(larger(low[0], high[0]), larger(low[1], high[1])),
                larger(larger(low[2], high[2]), larger(low[3], high[3])));
}

// Bit i is set where lane i of the mask is.
inline int mask_bits(I32x8 mask) {
#if defined(__AVX2__)
  return _mm256_movemask_ps((__m256)mask);
#else
  int bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= (mask[i] & 1) << i;
  return bits;
#endif
}

// What the functions below need of any number of lanes; wide_vector.h adds 16.
template <class V>
struct LanesOf;
template <>
struct LanesOf<F32x8> {
  using Int = I32x8;
  using Uint = U32x8;  // sums that may pass the largest integer
  static F32x8 splat(float x) { return cpu::splat(x); }
  static F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return fma8(a, b, c); }
};

template <class V>
inline V select_of(typename LanesOf<V>::Int mask, V a, V b) {
  using Int = typename LanesOf<V>::Int;
  return (V)((mask & (Int)a) | (~mask & (Int)b));
}

// e^x within 2 ulp; 0 below -87.33, no more than 2.4e38 (never infinite) above; NaN stays NaN.
// Polynomial of Cephes' expf (Moshier) on |r| <= ln(2) / 2.
template <class V>
inline V exp_of(V x) {
  using L = LanesOf<V>;
  using Int = typename L::Int;
  const V high = L::splat(88.37f), low = L::splat(-87.33f),
          shifter = L::splat(12582912.0f);  // 1.5 * 2^23: rounds to integer
  const Int vanishes = x < low;
  V clamped = select_of<V>(x > high, high, x);
  clamped = select_of<V>(vanishes, low, clamped);
  const V shifted = clamped * L::splat(1.44269504f) + shifter;
  const V n = shifted - shifter;
  V r = L::fma(n, L::splat(-0.693359375f), clamped);
  r = L::fma(n, L::splat(2.12194440e-4f), r);
  V p = L::splat(1.9875691500e-4f);
  p = L::fma(p, r, L::splat(1.3981999507e-3f));
  p = L::fma(p, r, L::splat(8.3334519073e-3f));
  p = L::fma(p, r, L::splat(4.1665795894e-2f));
  p = L::fma(p, r, L::splat(1.6666665459e-1f));
  p = L::fma(p, r, L::splat(5.0000001201e-1f));
  p = L::fma(p, r * r, r) + 1.0f;
  const Int scale = ((Int)shifted << 23) + 0x3f800000;  // 2^n: the low bits of `shifted` hold n
  return select_of<V>(vanishes, V{}, p * (V)scale);
}

// tanh within 2 ulp: Cephes' polynomial below 0.625, by e^2x above.
template <class V>
inline V tanh_of(V x) {
  using L = LanesOf<V>;
  using Int = typename L::Int;
  const Int sign = (Int)x & INT32_MIN;
  const V size = (V)((Int)x & INT32_MAX);
  const V large = 1.0f - 2.0f / (exp_of(size + size) + 1.0f);
  const V z = x * x;
  V p = L::splat(-5.70498872745e-3f);
  p = L::fma(p, z, L::splat(2.06390887954e-2f));
  p = L::fma(p, z, L::splat(-5.37397155531e-2f));
  p = L::fma(p, z, L::splat(1.33314422036e-1f));
  p = L::fma(p, z, L::splat(-3.33332819422e-1f));
  const V small = L::fma(p * z, x, x);
  return select_of<V>(size < L::splat(0.625f), small, (V)((Int)large | sign));
}

template <class V>
inline V silu_of(V x) {
  return x / (1.0f + exp_of(-x));
}

inline F32x8 exp8(F32x8 x) { return exp_of(x); }
inline F32x8 tanh8(F32x8 x) { return tanh_of(x); }
inline F32x8 silu8(F32x8 x) { return silu_of(x); }

}  // namespace
}  // namespace crosscurrent::cpu
