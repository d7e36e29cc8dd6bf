// int4 panels times int8 activations: per group of 32, 8 maddubs a column summed in int16, then one scale
//
// A pair of products is at most 2 * 15 * 127 and 8 of them 30480: they fit int16, so the widening multiply is
// paid once a group. Bound by memory for one row, by maddubs for many.
#include "simd/matmul_avx2.h"
#include "simd/panel_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

constexpr int kLines = 4;             // 64-byte lines of a record
constexpr int kPrefetchBytes = 4096;  // ahead of the record in use

template <int kRows, bool kWide, bool kMin>
void tile(const PanelArgs& a, const Columns& columns, int64_t row) {
  const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
  const uint8_t* at = static_cast<const uint8_t*>(a.panel);
  const int8_t* q = a.rows.q + row * a.rows.k;
  const float* scale = a.rows.scale + row * a.rows.groups;
  const float* sum = a.rows.sum + row * a.rows.groups;
  const int32_t* sum8 = a.rows.sum8 + row * a.rows.groups;
  const int64_t k = a.rows.k, groups = a.rows.groups;
  __m256 y[kRows][2];
  repeat<kRows>([&](auto r) __attribute__((always_inline)) { y[r][0] = y[r][1] = _mm256_setzero_ps(); });

  for (int64_t g = 0; g < groups; ++g, at += a.record_bytes, q += 32) {
    const uint8_t* lines = at + kScaleBytes<kWide> * (kMin ? 2 : 1);
    __m256i dot[kRows][2];
    repeat<kRows>([&](auto r)
                      __attribute__((always_inline)) { dot[r][0] = dot[r][1] = _mm256_setzero_si256(); });
#pragma GCC unroll 1  // unrolled, gcc puts all products first and spills them
    for (int l = 0; l < kLines; ++l) {
      if constexpr (kRows == 1) _mm_prefetch(lines + 64 * l + kPrefetchBytes, _MM_HINT_T0);
      const __m256i w0 = load_256(lines + 64 * l), w1 = load_256(lines + 64 * l + 32);
      const __m256i low0 = _mm256_and_si256(w0, nibble),
                    high0 = _mm256_and_si256(_mm256_srli_epi16(w0, 4), nibble);
      const __m256i low1 = _mm256_and_si256(w1, nibble),
                    high1 = _mm256_and_si256(_mm256_srli_epi16(w1, 4), nibble);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        const __m256i x0 = broadcast_32(q + r * k + 8 * l), x1 = broadcast_32(q + r * k + 8 * l + 4);
        const __m256i d0 = _mm256_add_epi16(_mm256_maddubs_epi16(low0, x0), _mm256_maddubs_epi16(high0, x1));
        const __m256i d1 = _mm256_add_epi16(_mm256_maddubs_epi16(low1, x0), _mm256_maddubs_epi16(high1, x1));
        dot[r][0] = _mm256_add_epi16(dot[r][0], d0);
        dot[r][1] = _mm256_add_epi16(dot[r][1], d1);
      });
    }
    repeat<2>([&](auto h) __attribute__((always_inline)) {
      const __m256 w_scale = load_scales<kWide>(at, 8 * h);
      __m256 w_min = w_scale;
      if constexpr (kMin) w_min = load_scales<kWide>(at + kScaleBytes<kWide>, 8 * h);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        __m256i exact = _mm256_madd_epi16(dot[r][h], ones);
        if constexpr (!kMin) exact = _mm256_sub_epi32(exact, _mm256_set1_epi32(sum8[r * groups + g]));
        const __m256 s = _mm256_mul_ps(w_scale, _mm256_broadcast_ss(scale + r * groups + g));
        y[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), s, y[r][h]);
        if constexpr (kMin)
          y[r][h] = _mm256_fmadd_ps(w_min, _mm256_broadcast_ss(sum + r * groups + g), y[r][h]);
      });
    });
  }
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    finish_columns(columns, a.y + (row + r) * a.y_stride, y[r][0], y[r][1]);
  });
}

template <bool kWide, bool kMin>
void all_rows(const PanelArgs& a) {
  const Columns columns = columns_of(a);
  int64_t row = 0;
  for (; row + 4 <= a.m; row += 4) tile<4, kWide, kMin>(a, columns, row);
  if (row + 2 <= a.m) {
    tile<2, kWide, kMin>(a, columns, row);
    row += 2;
  }
  if (row < a.m) tile<1, kWide, kMin>(a, columns, row);
}

}  // namespace

void int4(const PanelArgs* a) {
  if (a->wide_scales) {
    all_rows<true, true>(*a);  // K-quants
  } else if (a->has_min) {
    all_rows<false, true>(*a);
  } else {
    all_rows<false, false>(*a);
  }
}

}  // namespace crosscurrent::cpu::avx2
