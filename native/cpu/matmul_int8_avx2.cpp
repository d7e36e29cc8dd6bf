// int8 panels times int8 activations: weights widened to int16 once for all rows, then madd: exact for every
// byte
//
// maddubs would need |w| with the sign moved to x, which is wrong for -128, and its pairs are too large to
// sum in int16.
#include "simd/matmul_avx2.h"
#include "simd/panel_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

constexpr int kPrefetchBytes = 4096;

template <int kRows, int kGroup, bool kWide, bool kMin>
void tile(const PanelArgs& a, const Columns& columns, int64_t row) {
  const uint8_t* at = static_cast<const uint8_t*>(a.panel);
  const int64_t k = a.rows.k, groups = a.rows.groups;
  const int16_t* x = a.rows.pairs + row * k;
  const float* scale = a.rows.scale + row * groups;
  const float* sum = a.rows.sum + row * groups;
  __m256 y[kRows][2];
  repeat<kRows>([&](auto r) __attribute__((always_inline)) { y[r][0] = y[r][1] = _mm256_setzero_ps(); });

  for (int64_t record = 0; record < a.records; ++record, at += a.record_bytes, x += kGroup) {
    const uint8_t* lines = at + kScaleBytes<kWide> * (kMin ? 2 : 1);
    const int64_t g = record * kGroup / 32;
    __m256i dot[kRows][2];
    repeat<kRows>([&](auto r)
                      __attribute__((always_inline)) { dot[r][0] = dot[r][1] = _mm256_setzero_si256(); });
#pragma GCC unroll 1  // unrolled, gcc puts all products first and spills them
    for (int l = 0; l < kGroup / 4; ++l) {
      if constexpr (kRows == 1) _mm_prefetch(lines + 64 * l + kPrefetchBytes, _MM_HINT_T0);
      const __m256i w0 = load_256(lines + 64 * l), w1 = load_256(lines + 64 * l + 32);
      const __m256i even0 = _mm256_srai_epi16(_mm256_slli_epi16(w0, 8), 8), odd0 = _mm256_srai_epi16(w0, 8);
      const __m256i even1 = _mm256_srai_epi16(_mm256_slli_epi16(w1, 8), 8), odd1 = _mm256_srai_epi16(w1, 8);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        const __m256i xe = broadcast_32(x + r * k + 4 * l), xo = broadcast_32(x + r * k + 4 * l + 2);
        const __m256i d0 = _mm256_add_epi32(_mm256_madd_epi16(even0, xe), _mm256_madd_epi16(odd0, xo));
        const __m256i d1 = _mm256_add_epi32(_mm256_madd_epi16(even1, xe), _mm256_madd_epi16(odd1, xo));
        dot[r][0] = _mm256_add_epi32(dot[r][0], d0);
        dot[r][1] = _mm256_add_epi32(dot[r][1], d1);
      });
    }
    repeat<2>([&](auto h) __attribute__((always_inline)) {
      const __m256 w_scale = load_scales<kWide>(at, 8 * h);
      __m256 w_min = w_scale;
      if constexpr (kMin) w_min = load_scales<kWide>(at + kScaleBytes<kWide>, 8 * h);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        const __m256 s = _mm256_mul_ps(w_scale, _mm256_broadcast_ss(scale + r * groups + g));
        y[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot[r][h]), s, y[r][h]);
        if constexpr (kMin)
          y[r][h] = _mm256_fmadd_ps(w_min, _mm256_broadcast_ss(sum + r * groups + g), y[r][h]);
      });
    });
  }
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    finish_columns(columns, a.y + (row + r) * a.y_stride, y[r][0], y[r][1]);
  });
}

template <int kGroup, bool kWide, bool kMin>
void all_rows(const PanelArgs& a) {
  const Columns columns = columns_of(a);
  int64_t row = 0;
  for (; row + 4 <= a.m; row += 4) tile<4, kGroup, kWide, kMin>(a, columns, row);
  if (row + 2 <= a.m) {
    tile<2, kGroup, kWide, kMin>(a, columns, row);
    row += 2;
  }
  if (row < a.m) tile<1, kGroup, kWide, kMin>(a, columns, row);
}

}  // namespace

void int8(const PanelArgs* a) {
  if (a->group == 16) {
    all_rows<16, true, false>(*a);  // q6_k
  } else if (a->wide_scales) {
    all_rows<32, true, true>(*a);  // q5_k
  } else if (a->has_min) {
    all_rows<32, false, true>(*a);  // q5_1
  } else {
    all_rows<32, false, false>(*a);  // q8_0, q5_0
  }
}

}  // namespace crosscurrent::cpu::avx2
