// Registers of exact_tiles.h at the AVX2 level.
#pragma once

#include <immintrin.h>

#include "exact_tiles.h"

namespace crosscurrent::cpu {
namespace {

struct Ymm {
  using Float = __m256;
  static constexpr int kVectors = 2, kTileRows = 6;

  static Float zero() { return _mm256_setzero_ps(); }
  static Float load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Float x) { _mm256_storeu_ps(to, x); }
  static Float broadcast(const float* from) { return _mm256_broadcast_ss(from); }
  static Float add(Float a, Float b) { return _mm256_add_ps(a, b); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace
}  // namespace crosscurrent::cpu
