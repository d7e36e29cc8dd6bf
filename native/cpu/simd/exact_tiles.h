// Exact products: rows of x in f32 times 16 columns of weights, expanded to f32 side by side in L1, one fma a
// weight and row. Written once for every level that has fma; the level's file gives the registers:
//
//   kVectors, kTileRows  registers that 16 floats take; rows of a tile, so that all stays in registers
//   Float                a register of f32
//   zero, load, store, broadcast, add, fma
//
// A row of y has the same bits whatever rows go with it, and at every such level.
#pragma once

#include <stdint.h>
#include <string.h>

#include "../matmul_kernels.h"
#include "unroll.h"

namespace crosscurrent::cpu {
namespace {

constexpr int kPanelColumns = 16;

// body(Constant<rows>{}, first row) for tiles that cover rows [0, m).
template <class R, int kRows, class Body>
void last_tile(int64_t row, int64_t left, const Body& body) {
  if constexpr (kRows > 0) {
    if (left == kRows) return body(Constant<kRows>{}, row);
    last_tile<R, kRows - 1>(row, left, body);
  }
}

template <class R, class Body>
void each_tile(int64_t m, const Body& body) {
  int64_t row = 0;
  for (; row + R::kTileRows <= m; row += R::kTileRows) body(Constant<R::kTileRows>{}, row);
  last_tile<R, R::kTileRows - 1>(row, m - row, body);
}

template <class R, int kRows>
using Tile = typename R::Float[kRows][R::kVectors];

// y[r] += x[r, i] w[i] for i = 0 … steps - 1 in this order.
template <class R, int kRows>
__attribute__((always_inline)) inline void multiply(Tile<R, kRows>& y, const float* x, int64_t x_stride,
                                                    const float* w, int64_t steps) {
  constexpr int kLanes = kPanelColumns / R::kVectors;
  for (int64_t i = 0; i < steps; ++i) {
    typename R::Float weights[R::kVectors];
    each<R::kVectors>([&](auto v) __attribute__((always_inline)) {
      weights[v] = R::load(w + kPanelColumns * i + kLanes * v);
    });
    each<kRows>([&](auto r) __attribute__((always_inline)) {
      const typename R::Float value = R::broadcast(x + r * x_stride + i);
      each<R::kVectors>([&](auto v)
                            __attribute__((always_inline)) { y[r][v] = R::fma(value, weights[v], y[r][v]); });
    });
  }
}

// `columns` of the 16 floats of a register or two; the others are zero, and not stored.
template <class R>
__attribute__((always_inline)) inline void load_columns(typename R::Float (&y)[R::kVectors],
                                                        const float* from, int64_t columns) {
  constexpr int kLanes = kPanelColumns / R::kVectors;
  float padded[kPanelColumns] = {};
  if (columns < kPanelColumns) {
    memcpy(padded, from, sizeof(float) * static_cast<size_t>(columns));
    from = padded;
  }
  each<R::kVectors>([&](auto v) __attribute__((always_inline)) { y[v] = R::load(from + kLanes * v); });
}

template <class R>
__attribute__((always_inline)) inline void store_columns(const typename R::Float (&y)[R::kVectors], float* to,
                                                         int64_t columns) {
  constexpr int kLanes = kPanelColumns / R::kVectors;
  float padded[kPanelColumns];
  float* const at = columns < kPanelColumns ? padded : to;
  each<R::kVectors>([&](auto v) __attribute__((always_inline)) { R::store(at + kLanes * v, y[v]); });
  if (columns < kPanelColumns) memcpy(to, padded, sizeof(float) * static_cast<size_t>(columns));
}

template <class R>
__attribute__((always_inline)) inline void add_bias(typename R::Float (&y)[R::kVectors], const float* bias,
                                                    int64_t columns) {
  if (bias == nullptr) return;
  typename R::Float addend[R::kVectors];
  load_columns<R>(addend, bias, columns);
  each<R::kVectors>([&](auto v) __attribute__((always_inline)) { y[v] = R::add(y[v], addend[v]); });
}

// Packed panels. A column is one chain of fma over k, carried between pieces in y itself: f32, so nothing is
// lost.
constexpr int kPanelPiece = 128;  // elements of k: 8 KiB of f32

template <class R>
void panel_exact(const PanelArgs& a, ExpandPanel expand) {
  alignas(64) float w[kPanelPiece * kPanelColumns];
  for (int64_t k0 = 0; k0 < a.k; k0 += kPanelPiece) {
    const int64_t k = a.k - k0 < kPanelPiece ? a.k - k0 : kPanelPiece;
    expand(&a, k0, k, w);
    each_tile<R>(a.m, [&](auto rows, int64_t row) {
      float* to = a.y + row * a.y_stride;
      Tile<R, rows> y;
      each<rows>([&](auto r) __attribute__((always_inline)) {
        if (k0 == 0)
          each<R::kVectors>([&](auto v) __attribute__((always_inline)) { y[r][v] = R::zero(); });
        else
          load_columns<R>(y[r], to + r * a.y_stride, a.columns);
      });
      multiply<R, rows>(y, a.x + row * a.x_stride + k0, a.x_stride, w, k);
      each<rows>([&](auto r) __attribute__((always_inline)) {
        if (k0 + k == a.k) add_bias<R>(y[r], a.bias, a.columns);
        store_columns<R>(y[r], to + r * a.y_stride, a.columns);
      });
    });
  }
}

// Rows of W as stored. Few rows of x are multiplied by dot products along k of 8 lanes; here each of the 8
// lanes, a class of k modulo 8, is a chain of its own over 16 columns, so that the bits are those of the dot
// products.
constexpr int kClassFloats = (kDepth / kClasses + 1) * kPanelColumns;
constexpr int kMostRows = 96;  // of x, for which 16 columns are expanded
// Element k0 + 8 i + j of a column is at w[j kClassFloats + 16 i + column]; zeros after the last.

// Adds the classes in the order in which the lanes of a dot product are added.
template <class R>
void finish_stored(const StoredArgs& a, const float* sums, float* y) {
  constexpr int kLanes = kPanelColumns / R::kVectors;
  typename R::Float out[R::kVectors];
  each<R::kVectors>([&](auto v) __attribute__((always_inline)) {
    const auto sum = [&](int j) __attribute__((always_inline)) {
      const typename R::Float s = R::load(sums + j * kMostRows * kPanelColumns + kLanes * v);
      // a lane without a last element adds 0 · 0, which makes -0 zero
      return a.k % kClasses != 0 && j >= a.k % kClasses ? R::add(s, R::zero()) : s;
    };
    const typename R::Float even = R::add(R::add(sum(0), sum(4)), R::add(sum(2), sum(6)));
    const typename R::Float odd = R::add(R::add(sum(1), sum(5)), R::add(sum(3), sum(7)));
    out[v] = R::add(even, odd);
  });
  add_bias<R>(out, a.bias, a.columns);
  store_columns<R>(out, y, a.columns);
}

// Asks for the weights that are expanded next, some lines at each of `turns` turns: reading them in one go
// would leave the arithmetic idle.
struct NextWeights {
  static constexpr int64_t kLine = 64;
  const char* from;
  size_t row_bytes;
  int64_t lines_a_row, turns;
  int64_t turn = 0;

  NextWeights(const StoredArgs& a, int64_t k0, int64_t turns) : row_bytes(a.row_bytes), turns(turns) {
    const auto bytes = static_cast<int64_t>(a.row_bytes);
    const bool is_last = k0 + kDepth >= a.k;  // then it is the next 16 rows
    from =
        static_cast<const char*>(a.weights) + (is_last ? kPanelColumns * bytes : (k0 + kDepth) * bytes / a.k);
    lines_a_row = (kDepth * bytes / a.k < bytes ? kDepth * bytes / a.k : bytes) / kLine;
  }
  void ask() {
    const int64_t lines = kPanelColumns * lines_a_row, end = (turn + 1) * lines / turns;
    for (int64_t line = turn * lines / turns; line < end; ++line)
      __builtin_prefetch(
          from + static_cast<size_t>(line / lines_a_row) * row_bytes + line % lines_a_row * kLine, 0, 2);
    ++turn;
  }
};

// Needs a.pieces.
template <class R>
void stored_many(const StoredArgs& a, ExpandStored expand) {
  constexpr int kLanes = kPanelColumns / R::kVectors, kClassSums = kMostRows * kPanelColumns;
  alignas(64) float w[kClasses * kClassFloats];
  alignas(64) float sums[kClasses * kClassSums];  // [class][row][column]
  const int64_t pieces = (a.m + kMostRows - 1) / kMostRows;
  const int64_t most = ((a.m + pieces - 1) / pieces + R::kTileRows - 1) / R::kTileRows * R::kTileRows;
  for (int64_t first = 0; first < a.m; first += most) {
    const int64_t rows = a.m - first < most ? a.m - first : most;
    for (int64_t k0 = 0; k0 < a.k; k0 += kDepth) {
      const int64_t k = a.k - k0 < kDepth ? a.k - k0 : kDepth;
      expand(&a, k0, k, w);
      NextWeights next(a, k0, kClasses * ((rows + R::kTileRows - 1) / R::kTileRows));
      for (int j = 0; j < kClasses; ++j) {
        const float* x = a.pieces + k0 / kDepth * a.piece_stride + j * a.class_stride + first * kClassStride;
        const int64_t steps = (k - j + kClasses - 1) / kClasses;
        each_tile<R>(rows, [&](auto count, int64_t row) {
          next.ask();
          float* to = sums + j * kClassSums + row * kPanelColumns;
          Tile<R, count> y;
          each<count>([&](auto r) __attribute__((always_inline)) {
            each<R::kVectors>([&](auto v) __attribute__((always_inline)) {
              y[r][v] = k0 == 0 ? R::zero() : R::load(to + r * kPanelColumns + kLanes * v);
            });
          });
          multiply<R, count>(y, x + row * kClassStride, kClassStride, w + j * kClassFloats, steps);
          each<count>([&](auto r) __attribute__((always_inline)) {
            each<R::kVectors>([&](auto v) __attribute__((always_inline)) {
              R::store(to + r * kPanelColumns + kLanes * v, y[r][v]);
            });
          });
        });
      }
    }
    for (int64_t row = 0; row < rows; ++row)
      finish_stored<R>(a, sums + row * kPanelColumns, a.y + (first + row) * a.y_stride);
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
