// int4 panels times int8 activations: per group of 32, 8 maddubs a column summed in int16, then one scale
//
// A pair of products is at most 2 * 15 * 127 and 8 of them 30480: they fit int16, so the widening multiply is
// paid once a group. Bound by memory for one row, by maddubs for many.
#include "simd/matmul_avx2.h"
#include "simd/panel_avx2.h"

namespace crosscurrent::cpu::avx2 {
namespace {

constexpr int kLines = 4;             // 64-byte lines of a record
constexpr int kPrefetchBytes = 4096;  // ahead of the record in use
constexpr int kUnpackRows = 12;       // from here on nibbles are unpacked once, into L1, for all rows
constexpr int kShortPiece = 16;   // of the tiles of fewer rows: the memory goes on while later tiles compute
constexpr int kPieceGroups = 32;  // 16 KiB unpacked: half of L1

// Groups [g0, g1) of a panel. `unpacked` holds their nibbles as bytes, 8 lines of 64 a group, or is not used.
struct Piece {
  int64_t g0, g1;
  const uint8_t* unpacked;
};

template <bool kWide, bool kMin>
constexpr int kNibbles = kScaleBytes<kWide> * (kMin ? 2 : 1);  // where they begin in a record

// Two lines of 16 columns: elements 8 l … 8 l + 3 and 8 l + 4 … 8 l + 7 of a group.
struct Quads {
  __m256i low0, low1, high0, high1;
};

template <bool kUnpacked>
__attribute__((always_inline)) inline Quads load_quads(const uint8_t* lines, int l) {
  if constexpr (kUnpacked) {
    const uint8_t* at = lines + 128 * l;
    return {load_256(at), load_256(at + 32), load_256(at + 64), load_256(at + 96)};
  }
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i w0 = load_256(lines + 64 * l), w1 = load_256(lines + 64 * l + 32);
  return {_mm256_and_si256(w0, nibble), _mm256_and_si256(w1, nibble),
          _mm256_and_si256(_mm256_srli_epi16(w0, 4), nibble),
          _mm256_and_si256(_mm256_srli_epi16(w1, 4), nibble)};
}

template <int kRows, bool kWide, bool kMin, bool kUnpacked>
void tile(const PanelArgs& a, const Columns& columns, int64_t row, const Piece& piece) {
  const __m256i ones = _mm256_set1_epi16(1);
  const uint8_t* record =
      static_cast<const uint8_t*>(a.panel) + static_cast<size_t>(piece.g0) * a.record_bytes;
  const uint8_t* lines = kUnpacked ? piece.unpacked : record + kNibbles<kWide, kMin>;
  const size_t lines_step = kUnpacked ? 512 : a.record_bytes;
  const int64_t k = a.rows.k, groups = a.rows.groups;
  const int8_t* q = a.rows.q + row * k + piece.g0 * 32;
  const float* scale = a.rows.scale + row * groups;
  const float* sum = a.rows.sum + row * groups;
  const int32_t* sum8 = a.rows.sum8 + row * groups;
  float* to = a.y + row * a.y_stride;
  __m256 y[kRows][2];
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    load_partial_columns(columns, to + r * a.y_stride, piece.g0 == 0, y[r]);
  });

  for (int64_t g = piece.g0; g < piece.g1; ++g, record += a.record_bytes, lines += lines_step, q += 32) {
    __m256i dot[kRows][2];
    repeat<kRows>([&](auto r)
                      __attribute__((always_inline)) { dot[r][0] = dot[r][1] = _mm256_setzero_si256(); });
#pragma GCC unroll 1  // unrolled, gcc puts all products first and spills them
    for (int l = 0; l < kLines; ++l) {
      if constexpr (!kUnpacked) _mm_prefetch(lines + 64 * l + kPrefetchBytes, _MM_HINT_T0);
      const Quads w = load_quads<kUnpacked>(lines, l);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        const __m256i x0 = broadcast_32(q + r * k + 8 * l), x1 = broadcast_32(q + r * k + 8 * l + 4);
        const __m256i d0 =
            _mm256_add_epi16(_mm256_maddubs_epi16(w.low0, x0), _mm256_maddubs_epi16(w.high0, x1));
        const __m256i d1 =
            _mm256_add_epi16(_mm256_maddubs_epi16(w.low1, x0), _mm256_maddubs_epi16(w.high1, x1));
        dot[r][0] = _mm256_add_epi16(dot[r][0], d0);
        dot[r][1] = _mm256_add_epi16(dot[r][1], d1);
      });
    }
    repeat<2>([&](auto h) __attribute__((always_inline)) {
      const __m256 w_scale = load_scales<kWide>(record, 8 * h);
      __m256 w_min = w_scale;
      if constexpr (kMin) w_min = load_scales<kWide>(record + kScaleBytes<kWide>, 8 * h);
      repeat<kRows>([&](auto r) __attribute__((always_inline)) {
        __m256i exact = _mm256_madd_epi16(dot[r][h], ones);
        if constexpr (!kMin) exact = _mm256_sub_epi32(exact, _mm256_set1_epi32(sum8[r * groups + g]));
        const __m256 s = _mm256_mul_ps(w_scale, _mm256_broadcast_ss(scale + r * groups + g));
        y[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(exact), s, y[r][h]);
        if constexpr (kMin)
          y[r][h] = _mm256_fmadd_ps(w_min, _mm256_broadcast_ss(sum + r * groups + g), y[r][h]);
      });
    });
  }
  repeat<kRows>([&](auto r) __attribute__((always_inline)) {
    finish_columns(columns, to + r * a.y_stride, piece.g1 == groups, y[r]);
  });
}

template <bool kWide, bool kMin, bool kUnpacked>
void piece_rows(const PanelArgs& a, const Columns& columns, const Piece& piece) {
  int64_t row = 0;
  for (; row + 3 <= a.m; row += 3) tile<3, kWide, kMin, kUnpacked>(a, columns, row, piece);
  if (row + 2 == a.m) tile<2, kWide, kMin, kUnpacked>(a, columns, row, piece);
  if (row + 1 == a.m) tile<1, kWide, kMin, kUnpacked>(a, columns, row, piece);
}

template <bool kWide, bool kMin>
void all_rows(const PanelArgs& a) {
  const Columns columns = columns_of(a);
  if (a.m < kUnpackRows) {
    const int64_t most = a.m <= 3 ? a.rows.groups : kShortPiece;
    for (int64_t g = 0; g < a.rows.groups; g += most) {
      const int64_t end = a.rows.groups - g < most ? a.rows.groups : g + most;
      piece_rows<kWide, kMin, false>(a, columns, {g, end, nullptr});
    }
    return;
  }

  alignas(64) uint8_t unpacked[kPieceGroups * 512];
  const uint8_t* lines = static_cast<const uint8_t*>(a.panel) + kNibbles<kWide, kMin>;
  for (int64_t g0 = 0; g0 < a.rows.groups; g0 += kPieceGroups) {
    const int64_t left = a.rows.groups - g0, count = left < kPieceGroups ? left : kPieceGroups;
    for (int64_t g = 0; g < count; ++g, lines += a.record_bytes) {
      for (int l = 0; l < kLines; ++l) {
        _mm_prefetch(lines + 64 * l + kPrefetchBytes, _MM_HINT_T0);
        const Quads w = load_quads<false>(lines, l);
        auto* to = reinterpret_cast<__m256i*>(unpacked + 512 * g + 128 * l);
        _mm256_store_si256(to, w.low0);
        _mm256_store_si256(to + 1, w.low1);
        _mm256_store_si256(to + 2, w.high0);
        _mm256_store_si256(to + 3, w.high1);
      }
    }
    piece_rows<kWide, kMin, true>(a, columns, {g0, g0 + count, unpacked});
  }
}

}  // namespace

void int4(const PanelArgs* a) {
  if (a->wide_scales) {
    all_rows<true, true>(*a);  // K-quants
  } else if (a->has_min) {
    all_rows<false, true>(*a);
  } else {
    all_rows<false, false>(*a);
  }
}

}  // namespace crosscurrent::cpu::avx2
