// Small AVX2 helpers for level files. Static: each file keeps its own copy, built with its own flags.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace crosscurrent::cpu::avx2 {

template <int kValue>
struct Index {
  constexpr operator int() const { return kValue; }
};

// body(Index<0>{}) … body(Index<kCount - 1>{}): an unrolled loop whose arrays live in registers. A pragma
// comes too late for that: the compiler has already put the array in memory.
template <int kCount, class Body>
__attribute__((always_inline)) static inline void repeat(const Body& body) {
  if constexpr (kCount > 1) repeat<kCount - 1>(body);
  body(Index<kCount - 1>{});
}

// Lanes 0 … count - 1, for loads and stores at the end of a row.
static inline __m256i lane_mask(int64_t count) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < 8 ? count : 8)), lane);
}

// One fixed order, whatever the caller: halves, then pairs.
static inline float sum_of_lanes(__m256 v) {
  const __m128 quad = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 pair = _mm_add_ps(quad, _mm_movehl_ps(quad, quad));
  return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
}

static inline __m256i load_256(const void* from) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
static inline __m128i load_128(const void* from) {
  return _mm_loadu_si128(static_cast<const __m128i*>(from));
}

// The 4 bytes at `from` in every 32-bit lane.
static inline __m256i broadcast_32(const void* from) {
  return _mm256_castps_si256(_mm256_broadcast_ss(static_cast<const float*>(from)));
}

}  // namespace crosscurrent::cpu::avx2
