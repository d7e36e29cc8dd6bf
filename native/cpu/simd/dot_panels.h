// Packed panels (int4 and int8) times int8 activations by instructions that add four products of bytes to a
// 32-bit lane (vpdpbusd, sdot): one a line of 64 bytes, a row and a register's worth of columns. Written once
// for every level that has one; the level's file gives the registers:
//
//   kVectors, kTileRows  registers a line of 16 columns takes; rows of a tile, so that all stays in registers
//   Int, Float           a register of 32-bit lanes: integers, floats
//   kSigned              whether dot takes signed weights; otherwise they are unsigned, and int8 ones shifted
//   zero, zero_f, splat, splat_f, load, low_nibbles, high_nibbles, shifted, broadcast_4, dot, subtract,
//   to_float, mul, fma, load_half, load_f32, store_f32, prefetch
//
// Integer sums are exact and the order of float operations is that of the AVX2 kernels: the same bits.
// Unnamed namespace: every level's file has its own copy (see isa.h).
#pragma once

#include <stdint.h>
#include <string.h>

#include "../matmul_kernels.h"
#include "unroll.h"

namespace crosscurrent::cpu {
namespace {

constexpr int kDotPrefetchBytes = 4096;  // ahead of the record in use
constexpr int kShift = 128;              // of int8 weights read as unsigned

template <class R, bool kWide>
__attribute__((always_inline)) inline typename R::Float load_dot_scales(const uint8_t* from, int v) {
  constexpr int kColumns = 16 / R::kVectors;
  if constexpr (kWide) return R::load_f32(reinterpret_cast<const float*>(from) + v * kColumns);
  return R::load_half(from + 2 * v * kColumns);
}

// How the records of a panel lie (see pack.h).
template <int kGroupSize, bool kWideScales, bool kHasMin, bool kFourBits>
struct Record {
  static constexpr int kGroup = kGroupSize;
  static constexpr bool kWide = kWideScales, kMin = kHasMin, kInt4 = kFourBits;
  static constexpr int kScaleBytes = kWide ? 64 : 32;
  static constexpr int kWeights = kScaleBytes * (kMin ? 2 : 1);  // where they begin
  static constexpr int kLines = kGroup / (kInt4 ? 8 : 4);
};

template <class R, class Format, int kRows, bool kPrefetch>
void dot_tile(const PanelArgs& a, int64_t row) {
  using Int = typename R::Int;
  using Float = typename R::Float;
  constexpr int kVectors = R::kVectors, kColumns = 16 / kVectors;
  constexpr bool kShifted = !Format::kInt4 && !R::kSigned;
  const int64_t k = a.rows.k, groups = a.rows.groups;
  const uint8_t* record = static_cast<const uint8_t*>(a.panel);
  const int8_t* q = a.rows.q + row * k;
  const float* scale = a.rows.scale + row * groups;
  const float* sum = a.rows.sum + row * groups;
  const int32_t* sum8 = a.rows.sum8 + row * groups;
  Float y[kRows][kVectors];
  each<kRows>([&](auto r) __attribute__((always_inline)) {
    each<kVectors>([&](auto v) __attribute__((always_inline)) { y[r][v] = R::zero_f(); });
  });

  for (int64_t i = 0; i < a.records; ++i, record += a.record_bytes, q += Format::kGroup) {
    const int64_t g = i * Format::kGroup / 32;
    const uint8_t* lines = record + Format::kWeights;
    Int dot[kRows][kVectors];
    // the zero of q4_0, and of shifted weights, is subtracted first: 8 and 128 times the sum of q
    each<kRows>([&](auto r) __attribute__((always_inline)) {
      Int start = R::zero();
      if constexpr (Format::kInt4 && !Format::kMin) start = R::splat(-sum8[r * groups + g]);
      if constexpr (kShifted && Format::kGroup == 32) start = R::splat(-(kShift / 8) * sum8[r * groups + g]);
      each<kVectors>([&](auto v) __attribute__((always_inline)) { dot[r][v] = start; });
    });
#pragma GCC unroll 1  // unrolled, gcc puts all products first and spills them
    for (int l = 0; l < Format::kLines; ++l) {
      const uint8_t* line = lines + 64 * l;
      if constexpr (kPrefetch) R::prefetch(line + kDotPrefetchBytes);
      each<kVectors>([&](auto v) __attribute__((always_inline)) {
        const Int w = R::load(line + 64 / kVectors * v);
        if constexpr (Format::kInt4) {
          const Int low = R::low_nibbles(w), high = R::high_nibbles(w);
          each<kRows>([&](auto r) __attribute__((always_inline)) {
            dot[r][v] = R::dot(dot[r][v], low, R::broadcast_4(q + r * k + 8 * l));
            dot[r][v] = R::dot(dot[r][v], high, R::broadcast_4(q + r * k + 8 * l + 4));
          });
        } else {
          const Int bytes = kShifted ? R::shifted(w) : w;
          each<kRows>([&](auto r) __attribute__((always_inline)) {
            dot[r][v] = R::dot(dot[r][v], bytes, R::broadcast_4(q + r * k + 4 * l));
          });
        }
      });
    }
    if constexpr (kShifted && Format::kGroup != 32) {
      // sums of q are kept per 32 values only
      const Int shift = R::splat(static_cast<int32_t>(0x80808080u));
      each<kRows>([&](auto r) __attribute__((always_inline)) {
        Int too_much = R::zero();
        for (int at = 0; at < Format::kGroup; at += 4)
          too_much = R::dot(too_much, shift, R::broadcast_4(q + r * k + at));
        each<kVectors>([&](auto v)
                           __attribute__((always_inline)) { dot[r][v] = R::subtract(dot[r][v], too_much); });
      });
    }
    each<kVectors>([&](auto v) __attribute__((always_inline)) {
      const Float w_scale = load_dot_scales<R, Format::kWide>(record, v);
      Float w_min = w_scale;
      if constexpr (Format::kMin) w_min = load_dot_scales<R, Format::kWide>(record + Format::kScaleBytes, v);
      each<kRows>([&](auto r) __attribute__((always_inline)) {
        const Float s = R::mul(w_scale, R::splat_f(scale[r * groups + g]));
        y[r][v] = R::fma(R::to_float(dot[r][v]), s, y[r][v]);
        if constexpr (Format::kMin) y[r][v] = R::fma(w_min, R::splat_f(sum[r * groups + g]), y[r][v]);
      });
    });
  }
  each<kRows>([&](auto r) __attribute__((always_inline)) {
    float* to = a.y + (row + r) * a.y_stride;
    float columns[16];
    each<kVectors>([&](auto v)
                       __attribute__((always_inline)) { R::store_f32(columns + v * kColumns, y[r][v]); });
    if (a.bias != nullptr)
      for (int c = 0; c < a.columns; ++c) columns[c] += a.bias[c];
    memcpy(to, columns, sizeof(float) * static_cast<size_t>(a.columns));
  });
}

template <class R, class Format, int kRows, bool kPrefetch>
void dot_last_rows(const PanelArgs& a, int64_t row) {
  if constexpr (kRows > 0) {
    if (a.m - row == kRows) return dot_tile<R, Format, kRows, kPrefetch>(a, row);
    dot_last_rows<R, Format, kRows - 1, kPrefetch>(a, row);
  }
}

// The first tile brings the panel into L1 for those that follow.
template <class R, class Format>
void dot_rows(const PanelArgs& a) {
  if (a.m < R::kTileRows) return dot_last_rows<R, Format, R::kTileRows - 1, true>(a, 0);
  dot_tile<R, Format, R::kTileRows, true>(a, 0);
  int64_t row = R::kTileRows;
  for (; row + R::kTileRows <= a.m; row += R::kTileRows) dot_tile<R, Format, R::kTileRows, false>(a, row);
  dot_last_rows<R, Format, R::kTileRows - 1, false>(a, row);
}

template <class R>
void dot_int4(const PanelArgs* a) {
  if (a->wide_scales) {
    dot_rows<R, Record<32, true, true, true>>(*a);  // K-quants
  } else if (a->has_min) {
    dot_rows<R, Record<32, false, true, true>>(*a);
  } else {
    dot_rows<R, Record<32, false, false, true>>(*a);
  }
}

template <class R>
void dot_int8(const PanelArgs* a) {
  if (a->group == 16) {
    dot_rows<R, Record<16, true, false, false>>(*a);  // q6_k
  } else if (a->wide_scales) {
    dot_rows<R, Record<32, true, true, false>>(*a);  // q5_k
  } else if (a->has_min) {
    dot_rows<R, Record<32, false, true, false>>(*a);  // q5_1
  } else {
    dot_rows<R, Record<32, false, false, false>>(*a);
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
