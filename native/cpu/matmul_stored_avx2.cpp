// Rows of W as the file stores them: dot products along k, 8 partial sums a (row of x, row of W), one order
// to add them
//
// For few rows of x weights are converted in registers and used for all rows of a tile; for many 16 columns
// are expanded side by side (exact_tiles.h), with the same bits.
#include <string.h>

#include "simd/exact_avx2.h"
#include "simd/lanes_avx2.h"
#include "simd/matmul_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

// With one row of W at a time this distance reaches the memory's rate; 512 or 2448 to 16384 bytes stay at
// 60-80 % of it (Zen 3, k = 576).
constexpr int kPrefetchBytes = 1024;

__m256 half_everywhere(const uint8_t* from) {
  uint16_t bits;
  memcpy(&bits, from, 2);
  return _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(bits)));
}

// 8 weights from element i on; i is a multiple of 8.
template <StoredType kType>
__m256 load_weights(const uint8_t* row, int64_t i) {
  if constexpr (kType == kStoredF32) return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + i);
  if constexpr (kType == kStoredF16) return _mm256_cvtph_ps(load_128(row + 2 * i));
  if constexpr (kType == kStoredBf16) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(row + 2 * i)), 16));
  }
  const uint8_t* block = row + i / 32 * 34;
  const __m256i q =
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + i % 32)));
  return _mm256_mul_ps(_mm256_cvtepi32_ps(q), half_everywhere(block));
}

// The last k - i < 8 weights, zeros after them.
template <StoredType kType>
__m256 load_last_weights(const uint8_t* row, int64_t i, int64_t k) {
  constexpr int kBytes = kType == kStoredF32 ? 4 : 2;
  uint8_t padded[32] = {};
  memcpy(padded, row + kBytes * i, static_cast<size_t>(kBytes * (k - i)));
  return load_weights<kType>(padded, 0);
}

template <int kRows, int kColumns>
__attribute__((always_inline)) inline void finish_tile(const StoredArgs& a, int64_t row, int64_t column,
                                                       const __m256 (&y)[kRows][kColumns]) {
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    float* to = a.y + (row + r) * a.y_stride + column;
    repeat<kColumns>([&](auto c) __attribute__((always_inline)) {
      const float sum = sum_of_lanes(y[r][c]);
      to[c] = a.bias != nullptr ? sum + a.bias[column + c] : sum;
    });
  });
}

template <StoredType kType, int kRows, int kColumns>
void exact_tile(const StoredArgs& a, int64_t row, int64_t column) {
  const uint8_t* w = static_cast<const uint8_t*>(a.weights) + static_cast<size_t>(column) * a.row_bytes;
  const float* x = a.x + row * a.x_stride;
  const size_t row_bytes = a.row_bytes;
  const int64_t x_stride = a.x_stride;
  __m256 y[kRows][kColumns];
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    repeat<kColumns>([&](auto c) __attribute__((always_inline)) { y[r][c] = _mm256_setzero_ps(); });
  });
  int64_t i = 0;
  for (; i + 8 <= a.k; i += 8) {
    __m256 weights[kColumns];
    repeat<kColumns>([&](auto c) __attribute__((always_inline)) {
      weights[c] = load_weights<kType>(w + static_cast<size_t>(c) * row_bytes, i);
    });
    repeat<kRows>([&](auto r) __attribute__((always_inline)) {
      const __m256 v = _mm256_loadu_ps(x + r * x_stride + i);
      repeat<kColumns>(
          [&](auto c) __attribute__((always_inline)) { y[r][c] = _mm256_fmadd_ps(v, weights[c], y[r][c]); });
    });
  }
  if constexpr (kType != kStoredQ8_0) {
    if (i < a.k) {
      const __m256i mask = lane_mask(a.k - i);
      repeat<kColumns>([&](auto c) __attribute__((always_inline)) {
        const __m256 weights = load_last_weights<kType>(w + static_cast<size_t>(c) * row_bytes, i, a.k);
        repeat<kRows>([&](auto r) __attribute__((always_inline)) {
          y[r][c] = _mm256_fmadd_ps(_mm256_maskload_ps(x + r * x_stride + i, mask), weights, y[r][c]);
        });
      });
    }
  }
  finish_tile(a, row, column, y);
}

template <StoredType kType, int kRows, int kColumns>
int64_t exact_columns(const StoredArgs& a, int64_t row) {
  int64_t column = 0;
  for (; column + kColumns <= a.columns; column += kColumns)
    exact_tile<kType, kRows, kColumns>(a, row, column);
  for (; column < a.columns; ++column) exact_tile<kType, kRows, 1>(a, row, column);
  return row + kRows;
}

inline void transpose(__m256 (&v)[8]) {
  __m256 pairs[8], quads[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(v[i], v[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int half = 0; half < 2; ++half) {
      quads[i + 2 * half] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0x44);
      quads[i + 2 * half + 1] = _mm256_shuffle_ps(pairs[i + half], pairs[i + 2 + half], 0xee);
    }
  }
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    v[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}

// Columns that do not exist are copies of the last: their sums are not stored.
template <StoredType kType>
void expand(const StoredArgs* a, int64_t k0, int64_t k, float* w) {
  for (int half = 0; half < 2; ++half) {
    const uint8_t* rows[8];
    for (int c = 0; c < 8; ++c) {
      const int64_t column = 8 * half + c < a->columns ? 8 * half + c : a->columns - 1;
      rows[c] = static_cast<const uint8_t*>(a->weights) + static_cast<size_t>(column) * a->row_bytes;
    }
    float* to = w + 8 * half;
    for (int64_t i = 0; i < k; i += 8, to += kPanelColumns) {
      __m256 v[8];
      if (kType == kStoredQ8_0 || i + 8 <= k) {
        for (int c = 0; c < 8; ++c) v[c] = load_weights<kType>(rows[c], k0 + i);
      } else {
        for (int c = 0; c < 8; ++c) v[c] = load_last_weights<kType>(rows[c], k0 + i, k0 + k);
      }
      transpose(v);
      for (int j = 0; j < kClasses; ++j) _mm256_store_ps(to + j * kClassFloats, v[j]);
    }
  }
}

template <StoredType kType>
void exact(const StoredArgs& a) {
  if (a.pieces != nullptr) return stored_many<Ymm>(a, expand<kType>);
  int64_t row = 0;
  while (row + 6 <= a.m) row = exact_columns<kType, 6, 2>(a, row);
  while (row + 2 <= a.m) row = exact_columns<kType, 2, 4>(a, row);
  if (row < a.m) exact_columns<kType, 1, 4>(a, row);
}

template <int kRows, int kColumns>
void int8_tile(const StoredArgs& a, int64_t row, int64_t column) {
  const uint8_t* w = static_cast<const uint8_t*>(a.weights) + static_cast<size_t>(column) * a.row_bytes;
  const size_t row_bytes = a.row_bytes;
  const int64_t k = a.rows.k, groups = a.rows.groups;
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t* x = a.rows.q + row * k;
  const float* scale = a.rows.scale + row * groups;
  __m256 y[kRows][kColumns];
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    repeat<kColumns>([&](auto c) __attribute__((always_inline)) { y[r][c] = _mm256_setzero_ps(); });
  });
  for (int64_t g = 0; g < groups; ++g, w += 34, x += 32) {
    repeat<kColumns>([&](auto c) __attribute__((always_inline)) {
      const uint8_t* block = w + static_cast<size_t>(c) * row_bytes;
      if constexpr (kColumns == 1) _mm_prefetch(block + kPrefetchBytes, _MM_HINT_T0);
      const __m256i weights = load_256(block + 2), size = _mm256_abs_epi8(weights);
      const __m256 w_scale = half_everywhere(block);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        // |w| <= 128 as unsigned, |x| <= 127: a pair of products fits int16
        const __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(load_256(x + r * k), weights));
        const __m256 s = _mm256_mul_ps(w_scale, _mm256_broadcast_ss(scale + r * groups + g));
        y[r][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones)), s, y[r][c]);
      });
    });
  }
  finish_tile(a, row, column, y);
}

template <int kRows, int kColumns>
int64_t int8_columns(const StoredArgs& a, int64_t row) {
  int64_t column = 0;
  for (; column + kColumns <= a.columns; column += kColumns) int8_tile<kRows, kColumns>(a, row, column);
  for (; column < a.columns; ++column) int8_tile<kRows, 1>(a, row, column);
  return row + kRows;
}

}  // namespace

ExpandStored stored_expander(StoredType type) {
  switch (type) {
    case kStoredF16: return expand<kStoredF16>;
    case kStoredBf16: return expand<kStoredBf16>;
    case kStoredQ8_0: return expand<kStoredQ8_0>;
    default: return expand<kStoredF32>;
  }
}

void stored_exact(const StoredArgs* a) {
  switch (a->type) {
    case kStoredF16: exact<kStoredF16>(*a); break;
    case kStoredBf16: exact<kStoredBf16>(*a); break;
    case kStoredQ8_0: exact<kStoredQ8_0>(*a); break;
    default: exact<kStoredF32>(*a);
  }
}

void stored_int8(const StoredArgs* a) {
  // One column at a time even for several rows: four streams without prefetch took 13 ms for two rows of
  // 49152 x 576, this takes 3.3, as for one row (Zen 3).
  int64_t row = 0;
  while (row + 4 <= a->m) row = int8_columns<4, 1>(*a, row);
  if (row + 3 == a->m) int8_columns<3, 1>(*a, row);
  if (row + 2 == a->m) int8_columns<2, 1>(*a, row);
  if (row + 1 == a->m) int8_columns<1, 1>(*a, row);
}

}  // namespace crosscurrent::cpu::avx2
