// What the recurrences need beyond wide_math.h.
#pragma once

#include "wide_math.h"

namespace crosscurrent::cpu {
namespace {

// ln(1 + e^x) = max(x, 0) + ln(1 + u), u = e^-|x|, and ln(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3: good
// to the far tail, where it is u.
inline Wide softplus(Wide x) {
  const Wide u = exp_of((Wide)((WideInt)x | INT32_MIN));
  const Wide s = u / (u + 2.0f);
  const Wide square = s * s;
  Wide p = splat_wide(0.14095779f);
  p = fma_wide(p, square, splat_wide(0.13978831f));
  p = fma_wide(p, square, splat_wide(0.20012558f));
  p = fma_wide(p, square, splat_wide(0.33333156f));
  p = fma_wide(p, square, splat_wide(1.0f));
  return fma_wide(s + s, p, at_least(x, 0.0f));
}

// rows[i] lane j <-> rows[j] lane i
inline void transpose8(F32x8 (&rows)[8]) {
#if defined(__AVX2__)
  __m256 pairs[8], quads[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int half = 0; half < 2; ++half) {
      quads[i + 2 * half] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0x44);
      quads[i + 2 * half + 1] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0xee);
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
#else
  float lanes[8][8];
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) lanes[j][i] = rows[i][j];
  for (int i = 0; i < 8; ++i) rows[i] = load8(lanes[i]);
#endif
}

// to[i] = the sum of the lanes of row i, as ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)); of 16 lanes each is
// first added to the one eight before it.
inline void sum4(const Wide (&wide)[4], float* to) {
  F32x8 rows[4];
  for (int i = 0; i < 4; ++i)
    rows[i] = kWideLanes == kLanes ? eight_of(wide[i], 0) : eight_of(wide[i], 0) + eight_of(wide[i], 1);
#if defined(__AVX2__)
  const __m256 pairs = _mm256_hadd_ps(rows[0], rows[1]), more = _mm256_hadd_ps(rows[2], rows[3]);
  const __m256 halves = _mm256_hadd_ps(pairs, more);
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
#else
  for (int i = 0; i < 4; ++i) {
    const F32x8 v = rows[i];
    to[i] = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }
#endif
}

}  // namespace
}  // namespace crosscurrent::cpu
