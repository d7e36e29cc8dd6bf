// packed_matmul: y[m, n] = x[m, k] W[n, k]^T (+ bias), W packed to 4 or 8 bits (pack.h), x and y bf16, f32
// sums gated: y[m, ff] = silu(x Wg^T + bg) * (x Wu^T + bu), W the packed pair of gate and up
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "launch.cuh"
#include "matmul_tile.h"
#include "pack.h"

namespace crosscurrent::cuda {

// decode:  a row of y has the same bits whatever m and the other rows; meant for few rows, works for any.
// prefill: the fastest kernel for m; its sums may be ordered by m.
enum class RowClass : uint8_t { decode, prefill };

struct PackedMatmulArgs {
  PackedShape shape;
  const void* weight = nullptr;               // shape.bytes()
  const bf16* x = nullptr;                    // [m, k]
  const bf16* bias = nullptr;                 // [n] or null; of a gated pair gate's, then up's
  const int32_t* permutation = nullptr;       // [k] or null: packed column j meets x[:, permutation[j]]
  bf16* y = nullptr;                          // [m, n], gated: [m, n / 2]
  int64_t m = 0, x_stride = 0, y_stride = 0;  // elements, multiples of 8
  RowClass row_class = RowClass::decode;
  bool dependent = false;  // launch programmatically dependent on the kernel before (launch.cuh)
};

size_t packed_matmul_workspace(const PackedMatmulArgs& args);
void packed_matmul(const PackedMatmulArgs& args, Workspace workspace, cudaStream_t stream);

// Blocks along x are counted in 16 bits.
constexpr int64_t kMostRows = int64_t{65535} * kStreamTokens;

// For tuning alone: the streaming kernel with another number of tiles a block (matmul_stream.h).
void packed_matmul_stream(const PackedMatmulArgs& args, int tiles, cudaStream_t stream);

}  // namespace crosscurrent::cuda
