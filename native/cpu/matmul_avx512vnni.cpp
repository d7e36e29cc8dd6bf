// matmul at the AVX-512 VNNI level: a line of a panel is one register, a product one vpdpbusd
#include <immintrin.h>

#include "simd/dot_panels.h"
#include "simd/matmul_avx2.h"
#include "simd/matmul_avx512.h"

namespace crosscurrent::cpu {
namespace {

struct Zmm {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kVectors = 1, kTileRows = 8;
  static constexpr bool kSigned = false;

  static Int zero() { return _mm512_setzero_si512(); }
  static Float zero_f() { return _mm512_setzero_ps(); }
  static Int splat(int32_t x) { return _mm512_set1_epi32(x); }
  static Float splat_f(float x) { return _mm512_set1_ps(x); }
  static Int load(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static Int low_nibbles(Int w) { return _mm512_and_si512(w, _mm512_set1_epi8(15)); }
  static Int high_nibbles(Int w) { return low_nibbles(_mm512_srli_epi16(w, 4)); }
  static Int shifted(Int w) { return _mm512_xor_si512(w, _mm512_set1_epi8(-128)); }
  static Int broadcast_4(const int8_t* from) {
    int32_t bytes;
    memcpy(&bytes, from, 4);
    return _mm512_set1_epi32(bytes);
  }
  static Int dot(Int sum, Int weights, Int x) { return _mm512_dpbusd_epi32(sum, weights, x); }
  static Int subtract(Int a, Int b) { return _mm512_sub_epi32(a, b); }
  static Float to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static Float mul(Float a, Float b) { return _mm512_mul_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static Float load_half(const uint8_t* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Float load_f32(const float* from) { return _mm512_loadu_ps(from); }
  static void store_f32(float* to, Float x) { _mm512_storeu_ps(to, x); }
  static void prefetch(const uint8_t* from) { _mm_prefetch(from, _MM_HINT_T0); }
};

}  // namespace

const MatmulKernels kMatmulAvx512Vnni = {avx2::quantize_rows, dot_int4<Zmm>,      avx512::int4_exact,
                                         dot_int8<Zmm>,       avx512::int8_exact, avx512::stored_exact,
                                         avx2::stored_int8};

}  // namespace crosscurrent::cpu
