// Packed panels times f32 activations: a piece of a panel is expanded to f32 in L1, then one fma a weight and
// row
//
// Every column is one chain of fma over k, carried between pieces in y itself (f32: nothing is lost).
#include "simd/matmul_avx2.h"
#include "simd/panel_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

constexpr int kPiece = 128;  // elements of k: 8 KiB of f32, half of what L1 holds beside the rows of x

// Group of a record to f32 [group][16].
template <bool kInt4, int kGroup, bool kWide, bool kMin>
void expand_record(const uint8_t* at, float* to) {
  const uint8_t* lines = at + kScaleBytes<kWide> * (kMin ? 2 : 1);
  for (int h = 0; h < 2; ++h) {
    const __m256 scale = load_scales<kWide>(at, 8 * h);
    __m256 min = _mm256_setzero_ps();
    if constexpr (kMin) min = load_scales<kWide>(at + kScaleBytes<kWide>, 8 * h);
    if constexpr (kInt4 && !kMin)
      min = _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f));  // exact: so is the fma below
    const auto put = [&](int i, __m256i q) {
      const __m256 f = _mm256_cvtepi32_ps(q);
      const bool is_plain = !kInt4 && !kMin;
      _mm256_store_ps(to + 16 * i + 8 * h,
                      is_plain ? _mm256_mul_ps(f, scale) : _mm256_fmadd_ps(f, scale, min));
    };
    constexpr int kPerLine = kInt4 ? 8 : 4;
    for (int l = 0; l < kGroup / kPerLine; ++l) {
      const __m256i w = load_256(lines + 64 * l + 32 * h);  // a column's bytes in each 32-bit lane
      if constexpr (kInt4) {
        const __m256i nibble = _mm256_set1_epi32(15);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          put(8 * l + i, _mm256_and_si256(_mm256_srli_epi32(w, 8 * i), nibble));
          put(8 * l + 4 + i, _mm256_and_si256(_mm256_srli_epi32(w, 8 * i + 4), nibble));
        }
      } else {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) put(4 * l + i, _mm256_srai_epi32(_mm256_slli_epi32(w, 24 - 8 * i), 24));
      }
    }
  }
}

template <int kRows>
void tile(const PanelArgs& a, const Columns& columns, int64_t row, const float* w, int64_t k0, int64_t k) {
  const float* x = a.x + row * a.x_stride + k0;
  float* to = a.y + row * a.y_stride;
  __m256 y[kRows][2];
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    load_partial_columns(columns, to + r * a.y_stride, k0 == 0, y[r]);
  });
  for (int64_t i = 0; i < k; ++i) {
    const __m256 w0 = _mm256_load_ps(w + 16 * i), w1 = _mm256_load_ps(w + 16 * i + 8);
    repeat<kRows>([&](auto r) __attribute__((always_inline)) {
      const __m256 v = _mm256_broadcast_ss(x + r * a.x_stride + i);
      y[r][0] = _mm256_fmadd_ps(v, w0, y[r][0]);
      y[r][1] = _mm256_fmadd_ps(v, w1, y[r][1]);
    });
  }
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    finish_columns(columns, to + r * a.y_stride, k0 + k == a.k, y[r]);
  });
}

template <bool kInt4, int kGroup, bool kWide, bool kMin>
void all_rows(const PanelArgs& a) {
  alignas(64) float w[kPiece * 16];
  const Columns columns = columns_of(a);
  const uint8_t* at = static_cast<const uint8_t*>(a.panel);
  for (int64_t k0 = 0; k0 < a.k; k0 += kPiece) {
    const int64_t k = a.k - k0 < kPiece ? a.k - k0 : kPiece;
    for (int64_t i = 0; i < k; i += kGroup, at += a.record_bytes) {
      expand_record<kInt4, kGroup, kWide, kMin>(at, w + 16 * i);
    }
    int64_t row = 0;
    for (; row + 6 <= a.m; row += 6) tile<6>(a, columns, row, w, k0, k);
    for (; row + 2 <= a.m; row += 2) tile<2>(a, columns, row, w, k0, k);
    if (row < a.m) tile<1>(a, columns, row, w, k0, k);
  }
}

}  // namespace

void int4_exact(const PanelArgs* a) {
  if (a->wide_scales) {
    all_rows<true, 32, true, true>(*a);  // K-quants
  } else if (a->has_min) {
    all_rows<true, 32, false, true>(*a);
  } else {
    all_rows<true, 32, false, false>(*a);
  }
}

void int8_exact(const PanelArgs* a) {
  if (a->group == 16) {
    all_rows<false, 16, true, false>(*a);  // q6_k
  } else if (a->wide_scales) {
    all_rows<false, 32, true, true>(*a);  // q5_k
  } else if (a->has_min) {
    all_rows<false, 32, false, true>(*a);  // q5_1
  } else {
    all_rows<false, 32, false, false>(*a);  // q8_0, q5_0
  }
}

}  // namespace crosscurrent::cpu::avx2
