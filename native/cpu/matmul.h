// matmul: y[m, n] = x[m, k] W[n, k]^T + bias[n], x and y f32, W packed (pack.h)
//
// A row of y has the same bits for any m, any thread count and any split of the work; they depend on the
// instruction-set level and on the mode. NaN and infinity in a row of x reach that row of y and no other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "pack.h"

namespace crosscurrent::cpu {

// fast:  activations rounded to int8 per 32 values, integer products, f32 sums of groups. Float weights, and
// stored
//        block types other than q8_0, are computed as `exact`.
// exact: f32 activations times the exactly dequantised weights, f32 sums.
enum class Activations { fast, exact };

struct MatmulArgs {
  const PackedMatrix* weight;
  int64_t expert = 0;
  const float* x;    // [m, k]
  int64_t x_stride;  // elements
  int64_t m;
  float* y;  // [m, n]
  int64_t y_stride;
  const float* bias = nullptr;  // [n]
  Activations activations = Activations::fast;
  std::span<std::byte> scratch = {};  // of `matmul_scratch_bytes`; empty: taken and freed by the call
  int threads = 0;                    // most threads to use, 0: the pool's own number; 1 inside a pool chunk
};

size_t matmul_scratch_bytes(const PackPlan& plan, int64_t m, Activations activations);

// Splits the work over the pool. From inside a pool chunk (one expert's rows, say) it runs on the caller
// alone.
void matmul(const MatmulArgs& args);

// out[m, k] = rows of the matrix in f32: embedding gather. Ids must be in range.
void gather_rows(const PackedMatrix& weight, int64_t expert, std::span<const int32_t> ids, float* out,
                 int64_t out_stride);

}  // namespace crosscurrent::cpu
