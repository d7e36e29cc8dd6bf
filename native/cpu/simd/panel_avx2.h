// What the panel kernels (packed int4 and int8) share: scales of a record, columns of y.
#pragma once

#include "../matmul_kernels.h"
#include "lanes_avx2.h"

namespace crosscurrent::cpu::avx2 {

// 8 scales or mins from column `column` (0 or 8) on.
template <bool kWide>
static inline __m256 load_scales(const uint8_t* from, int column) {
  if constexpr (kWide) return _mm256_loadu_ps(reinterpret_cast<const float*>(from) + column);
  return _mm256_cvtph_ps(load_128(from + 2 * column));
}

template <bool kWide>
constexpr int kScaleBytes = kWide ? 64 : 32;

// The 16 columns of a panel, as far as they exist.
struct Columns {
  __m256i mask[2];
  __m256 bias[2];
  bool all, has_bias;
};

static inline Columns columns_of(const PanelArgs& a) {
  Columns c;
  for (int h = 0; h < 2; ++h) {
    c.mask[h] = lane_mask(a.columns - 8 * h);
    c.bias[h] = a.bias != nullptr ? _mm256_maskload_ps(a.bias + 8 * h, c.mask[h]) : _mm256_setzero_ps();
  }
  c.all = a.columns == 16;
  c.has_bias = a.bias != nullptr;
  return c;
}

static inline void store_columns(const Columns& c, float* y, int h, __m256 value) {
  if (c.all) {
    _mm256_storeu_ps(y + 8 * h, value);
  } else {
    _mm256_maskstore_ps(y + 8 * h, c.mask[h], value);
  }
}

// Sums over k are carried between pieces of k in y itself: f32, so nothing is lost.
static inline void load_partial_columns(const Columns& c, const float* y, bool is_first, __m256 (&sums)[2]) {
  sums[0] = is_first ? _mm256_setzero_ps() : _mm256_maskload_ps(y, c.mask[0]);
  sums[1] = is_first ? _mm256_setzero_ps() : _mm256_maskload_ps(y + 8, c.mask[1]);
}

static inline void finish_columns(const Columns& c, float* y, bool is_last, const __m256 (&sums)[2]) {
  const bool add_bias = is_last && c.has_bias;
  store_columns(c, y, 0, add_bias ? _mm256_add_ps(sums[0], c.bias[0]) : sums[0]);
  store_columns(c, y, 1, add_bias ? _mm256_add_ps(sums[1], c.bias[1]) : sums[1]);
}

}  // namespace crosscurrent::cpu::avx2
