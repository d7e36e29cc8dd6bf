// Exact products of many rows at the AVX-512 level: 16 columns are one register. Expanding is left to AVX2
#include <immintrin.h>

#include "simd/exact_tiles.h"
#include "simd/matmul_avx2.h"
#include "simd/matmul_avx512.h"

namespace crosscurrent::cpu::avx512 {
namespace {

struct Zmm {
  using Float = __m512;
  static constexpr int kVectors = 1, kTileRows = 12;

  static Float zero() { return _mm512_setzero_ps(); }
  static Float load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Float x) { _mm512_storeu_ps(to, x); }
  static Float broadcast(const float* from) { return _mm512_set1_ps(*from); }
  static Float add(Float a, Float b) { return _mm512_add_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

void int4_exact(const PanelArgs* a) { panel_exact<Zmm>(*a, avx2::int4_expander(a)); }
void int8_exact(const PanelArgs* a) { panel_exact<Zmm>(*a, avx2::int8_expander(a)); }

void stored_exact(const StoredArgs* a) {
  if (a->pieces == nullptr) return avx2::stored_exact(a);
  stored_many<Zmm>(*a, avx2::stored_expander(a->type));
}

}  // namespace crosscurrent::cpu::avx512
