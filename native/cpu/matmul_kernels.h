// What a matmul kernel of one instruction-set level is given: plain C structs, nothing inline (see isa.h).
//
// All kernels compute y[r, c] = sum over k of x[r, k] W[c, k] (+ bias[c]) with one order of accumulation over
// k per (level, mode), whatever the number of rows or columns of the call.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace crosscurrent::cpu {

// Rows of activations as int8 per 32 values: x = scale q. Row r of each array starts `stride` elements after
// row r - 1.
struct RowQuantView {
  int8_t* q;       // [rows, k] in -127 … 127
  int16_t* pairs;  // [rows, k] each 4 values as (0, 2, 1, 3): what the int8 kernels broadcast; null where not
                   // needed
  float* scale;    // [rows, groups]
  float* sum;      // [rows, groups] scale times the sum of q
  int32_t* sum8;   // [rows, groups] 8 times the sum of q: the zero of q4_0
  int64_t k, groups;
};

// One panel of 16 packed columns, rows [0, m).
struct PanelArgs {
  const void* panel;
  int64_t records;  // k / group
  size_t record_bytes;
  int columns;  // 1…16 that exist
  int group;    // 16 or 32
  int wide_scales, has_min;
  int small_integers;  // int8: all within -32 … 32
  int64_t k, m;
  const float* x;  // exact mode: row r at x + r x_stride
  int64_t x_stride;
  RowQuantView rows;  // int8 mode: from row 0 of this call on
  float* y;           // column 0 of the panel
  int64_t y_stride;
  const float* bias;  // of the panel's columns, or null
};

// Stored rows of W times many rows of x are computed in pieces of kDepth elements of k, each in classes of k
// modulo 8 (see exact_tiles.h).
constexpr int kClasses = 8;
constexpr int kDepth = 1024;
// Floats of a row of x in one class of a piece. A line more than there are: rows a power of two apart would
// meet in a few sets of the caches.
constexpr int kClassStride = kDepth / kClasses + 16;

enum StoredType { kStoredF32, kStoredF16, kStoredBf16, kStoredQ8_0 };

// `columns` rows of W as the file stores them, rows [0, m) of x.
struct StoredArgs {
  const void* weights;
  size_t row_bytes;
  StoredType type;
  int64_t columns;
  int64_t k, m;
  const float* x;
  int64_t x_stride;
  // The same rows, or null: element k0 + 8 i + j of row r is at
  // pieces + k0 / kDepth * piece_stride + j * class_stride + r * kClassStride + i.
  const float* pieces;
  int64_t piece_stride, class_stride;
  RowQuantView rows;
  float* y;
  int64_t y_stride;
  const float* bias;
};

// Elements [k0, k0 + k) of 16 columns as f32 side by side (see exact_tiles.h): of a panel to w [k][16], of
// stored rows to classes of k modulo 8.
using ExpandPanel = void (*)(const struct PanelArgs* a, int64_t k0, int64_t k, float* w);
using ExpandStored = void (*)(const struct StoredArgs* a, int64_t k0, int64_t k, float* w);

struct MatmulKernels {
  // Quantises `m` rows of x into `rows`.
  void (*quantize_rows)(const float* x, int64_t x_stride, int64_t m, const struct RowQuantView* rows);
  void (*int4)(const struct PanelArgs*);
  void (*int4_exact)(const struct PanelArgs*);
  void (*int8)(const struct PanelArgs*);
  void (*int8_exact)(const struct PanelArgs*);
  void (*stored_exact)(const struct StoredArgs*);
  void (*stored_int8)(const struct StoredArgs*);  // q8_0 only
};

extern const MatmulKernels kMatmulV2;
extern const MatmulKernels kMatmulAvx2;
extern const MatmulKernels kMatmulAvxVnni;
extern const MatmulKernels kMatmulAvx512Vnni;
extern const MatmulKernels kMatmulDotprod;

}  // namespace crosscurrent::cpu
