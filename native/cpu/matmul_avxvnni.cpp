// matmul at the AVX-VNNI level: a line of a panel is two registers, a product one vpdpbusd
#include <immintrin.h>

#include "simd/dot_panels.h"
#include "simd/matmul_avx2.h"

namespace crosscurrent::cpu {
namespace {

struct Ymm {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kVectors = 2, kTileRows = 3;
  static constexpr bool kSigned = false;

  static Int zero() { return _mm256_setzero_si256(); }
  static Float zero_f() { return _mm256_setzero_ps(); }
  static Int splat(int32_t x) { return _mm256_set1_epi32(x); }
  static Float splat_f(float x) { return _mm256_set1_ps(x); }
  static Int load(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static Int low_nibbles(Int w) { return _mm256_and_si256(w, _mm256_set1_epi8(15)); }
  static Int high_nibbles(Int w) { return low_nibbles(_mm256_srli_epi16(w, 4)); }
  static Int shifted(Int w) { return _mm256_xor_si256(w, _mm256_set1_epi8(-128)); }
  static Int broadcast_4(const int8_t* from) {
    int32_t bytes;
    memcpy(&bytes, from, 4);
    return _mm256_set1_epi32(bytes);
  }
  static Int dot(Int sum, Int weights, Int x) { return _mm256_dpbusd_avx_epi32(sum, weights, x); }
  static Int subtract(Int a, Int b) { return _mm256_sub_epi32(a, b); }
  static Float to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static Float mul(Float a, Float b) { return _mm256_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static Float load_half(const uint8_t* from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Float load_f32(const float* from) { return _mm256_loadu_ps(from); }
  static void store_f32(float* to, Float x) { _mm256_storeu_ps(to, x); }
  static void prefetch(const uint8_t* from) { _mm_prefetch(from, _MM_HINT_T0); }
};

}  // namespace

const MatmulKernels kMatmulAvxVnni = {avx2::quantize_rows, dot_int4<Ymm>,    avx2::int4_exact,
                                      dot_int8<Ymm>,       avx2::int8_exact, avx2::stored_exact,
                                      avx2::stored_int8};

}  // namespace crosscurrent::cpu
