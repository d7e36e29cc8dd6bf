// quantize_rows: q = round(127 x / max|x|) and scale = max|x| / 127 per 32 values
#include "simd/lanes_avx2.h"
#include "simd/matmul_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

// As bits: infinity and NaN win over every number, so they reach the scale and the output.
float largest_magnitude(const __m256* x) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i best = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i)
    best = _mm256_max_epi32(best, _mm256_and_si256(_mm256_castps_si256(x[i]), magnitude));
  __m128i half = _mm_max_epi32(_mm256_castsi256_si128(best), _mm256_extracti128_si256(best, 1));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtss_f32(_mm_castsi128_ps(half));
}

int32_t sum_of_lanes(__m256i v) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtsi128_si32(half);
}

void quantize_group(const float* from, int8_t* q, float* scale, float* sum, int32_t* sum8) {
  __m256 x[4];
  for (int i = 0; i < 4; ++i) x[i] = _mm256_loadu_ps(from + 8 * i);
  const float largest = largest_magnitude(x);
  const bool is_zero = largest < 1e-35f;  // 127 / largest would overflow
  const float s = is_zero ? 0.0f : largest / 127.0f;
  const __m256 inverse = _mm256_set1_ps(is_zero ? 0.0f : 127.0f / largest);
  __m256i v[4];
  for (int i = 0; i < 4; ++i) v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(x[i], inverse));
  const int32_t total =
      sum_of_lanes(_mm256_add_epi32(_mm256_add_epi32(v[0], v[1]), _mm256_add_epi32(v[2], v[3])));
  // The packs work on 128-bit halves: the permutation puts the groups of four back in order.
  const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
  const __m256i bytes = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
  *scale = s;
  *sum = s * static_cast<float>(total);
  *sum8 = static_cast<int32_t>(static_cast<uint32_t>(total) * 8u);
}

}  // namespace

void quantize_rows(const float* x, int64_t x_stride, int64_t m, const RowQuantView* rows) {
  for (int64_t r = 0; r < m; ++r) {
    int8_t* q = rows->q + r * rows->k;
    for (int64_t g = 0; g < rows->groups; ++g) {
      const int64_t at = r * rows->groups + g;
      quantize_group(x + r * x_stride + g * 32, q + g * 32, rows->scale + at, rows->sum + at,
                     rows->sum8 + at);
    }
  }
}

}  // namespace crosscurrent::cpu::avx2
