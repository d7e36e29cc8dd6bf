// The functions of vector.h on the level's widest lanes. A lane's result depends on its own value alone, and
// is that of eight lanes.
#pragma once

#include "wide_vector.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__AVX512F__)
typedef int32_t I32x16 __attribute__((vector_size(64)));
typedef uint32_t U32x16 __attribute__((vector_size(64)));

template <>
struct LanesOf<Wide> {
  using Int = I32x16;
  using Uint = U32x16;
  static Wide splat(float x) { return splat_wide(x); }
  static Wide fma(Wide a, Wide b, Wide c) { return fma_wide(a, b, c); }
};
#endif

using WideInt = LanesOf<Wide>::Int;
using WideUint = LanesOf<Wide>::Uint;

// Lanes from `count` on are `rest`; count is 0 … kWideLanes.
inline Wide load_wide_part(const float* from, int count, float rest) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(splat_wide(rest), static_cast<__mmask16>((1u << count) - 1), from);
#else
  return load_part(from, count, rest);
#endif
}

inline void store_wide_part(float* to, Wide value, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), value);
#else
  store_part(to, value, count);
#endif
}

inline Wide load_up_to(const float* from, int count) {
  return count == kWideLanes ? load_wide(from) : load_wide_part(from, count, 0);
}
inline void store_up_to(float* to, Wide value, int count) {
  if (count == kWideLanes)
    store_wide(to, value);
  else
    store_wide_part(to, value, count);
}

// The second operand where the first is NaN.
inline Wide max_wide(Wide a, Wide b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#else
  return max8(a, b);
#endif
}

// A NaN in x stays.
inline Wide at_most(Wide x, float limit) {
#if defined(__AVX512F__)
  return _mm512_min_ps(splat_wide(limit), x);
#elif defined(__AVX2__)
  return _mm256_min_ps(splat(limit), x);
#else
  return select(x > splat(limit), splat(limit), x);
#endif
}
inline Wide at_least(Wide x, float limit) { return max_wide(splat_wide(limit), x); }

// Bit i is set where lane i of the mask is.
inline unsigned wide_mask_bits(WideInt mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)mask);
#else
  return static_cast<unsigned>(mask_bits(mask));
#endif
}

// Lanes 8 h … 8 h + 7.
inline F32x8 eight_of(Wide v, int h) {
#if defined(__AVX512F__)
  return h == 0 ? _mm512_castps512_ps256(v) : _mm512_extractf32x8_ps(v, 1);
#else
  (void)h;
  return v;
#endif
}

}  // namespace
}  // namespace crosscurrent::cpu
