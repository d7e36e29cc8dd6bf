// int8 panels times int8 activations: maddubs of |w| and x with the sign of w, exact for every byte
//
// |w| <= 128 as unsigned and |x| <= 127: a pair of products is at most 32512 and fits int16. Where |w| <= 32
// (5 and 6 bit formats) four pairs still do, and the widening multiply is paid once in four steps.
#include "simd/matmul_avx2.h"
#include "simd/panel_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

constexpr int kPrefetchBytes = 4096;

template <int kRows, int kGroup, bool kWide, bool kMin, bool kSmall, bool kPrefetch>
void tile(const PanelArgs& a, const Columns& columns, int64_t row) {
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t* at = static_cast<const uint8_t*>(a.panel);
  const int64_t k = a.rows.k, groups = a.rows.groups;
  const int8_t* x = a.rows.q + row * k;
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
    constexpr int kSteps = kSmall ? 4 : 1;
#pragma GCC unroll 1  // unrolled, gcc puts all products first and spills them
    for (int l = 0; l < kGroup / 4; l += kSteps) {
      __m256i pairs[kRows][2];
      repeat<kSteps>([&](auto step) __attribute__((always_inline)) {
        const uint8_t* line = lines + 64 * (l + step);
        if constexpr (kPrefetch) _mm_prefetch(line + kPrefetchBytes, _MM_HINT_T0);
        const __m256i w0 = load_256(line), w1 = load_256(line + 32);
        const __m256i size0 = _mm256_abs_epi8(w0), size1 = _mm256_abs_epi8(w1);
        repeat<kRows>([&](auto r) __attribute__((always_inline)) {
          const __m256i v = broadcast_32(x + r * k + 4 * (l + step));
          const __m256i d0 = _mm256_maddubs_epi16(size0, _mm256_sign_epi8(v, w0));
          const __m256i d1 = _mm256_maddubs_epi16(size1, _mm256_sign_epi8(v, w1));
          pairs[r][0] = step == 0 ? d0 : _mm256_add_epi16(pairs[r][0], d0);
          pairs[r][1] = step == 0 ? d1 : _mm256_add_epi16(pairs[r][1], d1);
        });
      });
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        dot[r][0] = _mm256_add_epi32(dot[r][0], _mm256_madd_epi16(pairs[r][0], ones));
        dot[r][1] = _mm256_add_epi32(dot[r][1], _mm256_madd_epi16(pairs[r][1], ones));
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
    finish_columns(columns, a.y + (row + r) * a.y_stride, true, y[r]);
  });
}

template <int kGroup, bool kWide, bool kMin, bool kSmall>
void all_rows(const PanelArgs& a) {
  const Columns columns = columns_of(a);
  // The first tile brings the panel into L1 for those that follow.
  int64_t row = a.m < 3 ? 0 : 3;
  if (a.m >= 3) tile<3, kGroup, kWide, kMin, kSmall, true>(a, columns, 0);
  for (; row + 3 <= a.m; row += 3) tile<3, kGroup, kWide, kMin, kSmall, false>(a, columns, row);
  if (row + 2 == a.m) tile<2, kGroup, kWide, kMin, kSmall, true>(a, columns, row);
  if (row + 1 == a.m) tile<1, kGroup, kWide, kMin, kSmall, true>(a, columns, row);
}

}  // namespace

void int8(const PanelArgs* a) {
  if (a->group == 16) {
    all_rows<16, true, false, true>(*a);  // q6_k
  } else if (a->wide_scales) {
    all_rows<32, true, true, true>(*a);  // q5_k
  } else if (a->has_min) {
    all_rows<32, false, true, true>(*a);  // q5_1
  } else if (a->small_integers) {
    all_rows<32, false, false, true>(*a);  // q5_0
  } else {
    all_rows<32, false, false, false>(*a);  // q8_0
  }
}

}  // namespace crosscurrent::cpu::avx2
