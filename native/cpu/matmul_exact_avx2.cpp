// Packed panels times f32 activations: how a piece of a panel is expanded to f32 (the rest is exact_tiles.h)
#include "simd/exact_avx2.h"
#include "simd/matmul_avx2.h"
#include "simd/panel_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

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

template <bool kInt4, int kGroup, bool kWide, bool kMin>
void expand(const PanelArgs* a, int64_t k0, int64_t k, float* w) {
  const uint8_t* at =
      static_cast<const uint8_t*>(a->panel) + static_cast<size_t>(k0 / kGroup) * a->record_bytes;
  for (int64_t i = 0; i < k; i += kGroup, at += a->record_bytes)
    expand_record<kInt4, kGroup, kWide, kMin>(at, w + kPanelColumns * i);
}

}  // namespace

ExpandPanel int4_expander(const PanelArgs* a) {
  if (a->wide_scales) return expand<true, 32, true, true>;  // K-quants
  return a->has_min ? expand<true, 32, false, true> : expand<true, 32, false, false>;
}

ExpandPanel int8_expander(const PanelArgs* a) {
  if (a->group == 16) return expand<false, 16, true, false>;  // q6_k
  if (a->wide_scales) return expand<false, 32, true, true>;   // q5_k
  if (a->has_min) return expand<false, 32, false, true>;      // q5_1
  return expand<false, 32, false, false>;                     // q8_0, q5_0
}

void int4_exact(const PanelArgs* a) { panel_exact<Ymm>(*a, int4_expander(a)); }
void int8_exact(const PanelArgs* a) { panel_exact<Ymm>(*a, int8_expander(a)); }

}  // namespace crosscurrent::cpu::avx2
