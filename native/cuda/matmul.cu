// matmul on mma.sync: any architecture from sm_80, and decode class, where a row's bits must not depend on m;
// and the choice between it and wgmma. A block makes 64 rows of x times 64 of W, 32 columns of k a stage.
#include "matmul.h"
#include "matmul_sm90_launch.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kTile = 64, kStep = 32, kStages = 4;
constexpr int kStride = kStep + 8;  // 80 bytes: ldmatrix meets no bank twice

struct MmaParameters {
  const bf16 *weight, *x, *bias;
  bf16* y;
  int64_t weight_stride, x_stride, y_stride;
  int m, n, k;
};

// Rows [first, first + 64) of a matrix, columns [column, column + 32); zeros beyond.
__device__ __forceinline__ void load_tile(bf16 (*to)[kStride], const bf16* from, int64_t stride, int first,
                                          int rows, int column, int columns) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int piece = static_cast<int>(threadIdx.x) + 128 * i, row = piece / 4, c = piece % 4 * 8;
    const bool inside = first + row < rows && column + c < columns;
    copy_async_16(&to[row][c], inside ? from + (first + row) * stride + column + c : from, inside ? 16 : 0);
  }
}

__global__ void __launch_bounds__(128) mma_kernel(const __grid_constant__ MmaParameters p) {
  __shared__ __align__(16) bf16 x[kStages][kTile][kStride], w[kStages][kTile][kStride];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int first_row = static_cast<int>(blockIdx.x) * kTile,
            first_token = static_cast<int>(blockIdx.y) * kTile;
  const int token = warp / 2 * 32, row = warp % 2 * 32;  // of this warp's 32 x 32
  const int steps = (p.k + kStep - 1) / kStep;
  launch_dependents();
  grid_dependency_wait();
  const auto fetch = [&](int step) {
    if (step < steps) {
      load_tile(x[step % kStages], p.x, p.x_stride, first_token, p.m, step * kStep, p.k);
      load_tile(w[step % kStages], p.weight, p.weight_stride, first_row, p.n, step * kStep, p.k);
    }
    copy_async_commit();
  };
  for (int i = 0; i < kStages - 1; ++i) fetch(i);
  float d[2][4][4] = {};
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    fetch(step + kStages - 1);  // into the stage that the barrier has freed
    const int stage = step % kStages;
#pragma unroll
    for (int k = 0; k < kStep; k += 16) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrix_x4(a[i], &x[stage][token + 16 * i + lane % 16][k + lane / 16 * 8]);
        load_matrix_x4(b[i], &w[stage][row + 16 * i + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_bf16(d[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int column = first_row + row + 8 * j + lane % 4 * 2;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int t = first_token + token + 16 * i + 8 * half + lane / 4;
        if (t >= p.m) continue;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (column + e >= p.n) continue;
          const float bias = p.bias != nullptr ? __bfloat162float(p.bias[column + e]) : 0.0f;
          p.y[t * p.y_stride + column + e] = __float2bfloat16(d[i][j][2 * half + e] + bias);
        }
      }
    }
  }
}

void check_args(const MatmulArgs& a) {
  const auto size = [](const char* operand, int64_t value) {
    check(value >= 0 && value <= INT32_MAX / 2, operand, "0 … 2^30", value);
  };
  check(a.m >= 0 && a.m <= kMostRows, "matmul: m", "0 … " + std::to_string(kMostRows), a.m);
  size("matmul: n", a.n);
  size("matmul: k", a.k);
  const auto stride = [](const char* operand, int64_t value, int64_t least) {
    check(value >= least && value % 8 == 0, operand, "a multiple of 8, at least " + std::to_string(least),
          value);
  };
  stride("matmul: weight_stride", a.weight_stride, a.k);
  stride("matmul: x_stride", a.x_stride, a.k);
  stride("matmul: y_stride", a.y_stride, a.n);
  check(a.k % 8 == 0, "matmul: k", "a multiple of 8", a.k);
  if (a.m == 0 || a.n == 0) return;
  check(a.k > 0, "matmul: k", "at least 8", a.k);
  check_pointer("matmul: weight", a.weight, 16);
  check_pointer("matmul: x", a.x, 16);
  check_pointer("matmul: y", a.y, 16);
  if (a.bias != nullptr) check_pointer("matmul: bias", a.bias, 2);
  const Arch& arch = current_arch();
  check(arch.compute >= 80, "matmul: architecture", "compute capability 8.0 or later", arch.compute);
}

template <class Tile>
void launch_wgmma(const MatmulArgs& a, cudaStream_t stream) {
  GemmParameters p;
  p.weight = tensor_map(a.weight, {.size = {static_cast<uint64_t>(a.k), static_cast<uint64_t>(a.n)},
                                   .stride_bytes = {static_cast<uint64_t>(2 * a.weight_stride)},
                                   .box = {kBlockColumns, Tile::kRows}});
  p.scales = p.zeros = p.weight;
  p.bias = a.bias;
  p.group_log2 = 0;
  p.bf16_scales = true;
  launch_gemm<Tile>(p, a.x, a.x_stride, a.y, a.y_stride, a.m, a.n, a.k, a.n, a.dependent, stream);
}

}  // namespace

size_t matmul_workspace(const MatmulArgs&) { return 0; }

void matmul(const MatmulArgs& a, Workspace, cudaStream_t stream) {
  check_args(a);
  if (a.m == 0 || a.n == 0) return;
  const Arch& arch = current_arch();
  if (a.row_class == RowClass::prefill && arch.has_wgmma()) {
    return gemm_is_wide(arch, a.m, a.n)
               ? launch_wgmma<GemmTile<16, false, false, false, 256, 1, 4, 2>>(a, stream)
               : launch_wgmma<GemmTile<16, false, false, false, 64, 1, 8, 2>>(a, stream);
  }
  const MmaParameters p{a.weight,
                        a.x,
                        a.bias,
                        a.y,
                        a.weight_stride,
                        a.x_stride,
                        a.y_stride,
                        static_cast<int>(a.m),
                        static_cast<int>(a.n),
                        static_cast<int>(a.k)};
  launch(
      mma_kernel,
      {.grid = dim3(static_cast<unsigned>(ceil_div(p.n, kTile)), static_cast<unsigned>(ceil_div(p.m, kTile))),
       .block = dim3(128),
       .stream = stream,
       .dependent = a.dependent && arch.has_dependent_launch()},
      p);
}

}  // namespace crosscurrent::cuda
