// The products of `moe_prefill` on mma.sync: any architecture from sm_80. A block makes 64 rows of an expert
// times 64 outputs (with gate and up, both products of them), 32 columns of k a stage.
#include "act_mul.cuh"
#include "moe_prefill_kernels.h"
#include "ptx.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kTile = 64, kStep = 32, kStages = 3, kThreads = 128;
constexpr int kStride = kStep + 8;  // 80 bytes: ldmatrix meets no bank twice
static_assert(kTile == kMoeMmaTile.group_rows && kTile == kMoeMmaTile.weight_rows);

// 64 rows of a stage, two pieces of 16 bytes a thread; zeros where `inside` is not, and beyond `columns`.
struct Rows {
  const bf16* from[2];
  bool inside[2];
  int row[2], column;
};

__device__ __forceinline__ void load_rows(bf16 (*to)[kStride], const Rows& rows, int k, int columns) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool inside = rows.inside[i] && k + rows.column < columns;
    copy_async_16(&to[rows.row[i]][rows.column], rows.from[i] + (inside ? k + rows.column : 0),
                  inside ? 16 : 0);
  }
}

template <bool kGated>
__global__ void __launch_bounds__(kThreads) moe_mma_kernel(const __grid_constant__ MoeMatmul p) {
  constexpr int kSides = kGated ? 2 : 1;
  __shared__ __align__(16) bf16 x[kStages][kTile][kStride], w[kSides][kStages][kTile][kStride];
  launch_dependents();
  grid_dependency_wait();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = warp / 2 * 32, output = warp % 2 * 32;  // of this warp's 32 x 32
  const int tiles = (p.n + kTile - 1) / kTile, steps = (p.k + kStep - 1) / kStep;
  const int items = *p.group_count * tiles;
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const MoeGroup group = p.groups[item / tiles];
    const int local = item - group.run_first * tiles, first_output = local / group.run_groups * kTile;
    const int first_row = group.run_row + local % group.run_groups * group.group_rows;
    const int rows = min(group.group_rows, group.run_end - first_row);
    Rows of_x, of_w[kSides];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int piece = static_cast<int>(threadIdx.x) + kThreads * i, r = piece / 4;
      of_x.row[i] = r, of_x.column = piece % 4 * 8, of_x.inside[i] = r < rows;
      int64_t at = 0;
      if (r < rows) at = p.row_token != nullptr ? p.row_token[first_row + r] : first_row + r;
      of_x.from[i] = p.x + at * p.k;
#pragma unroll
      for (int side = 0; side < kSides; ++side) {
        of_w[side].row[i] = r, of_w[side].column = of_x.column, of_w[side].inside[i] = first_output + r < p.n;
        const int64_t weight_row = of_w[side].inside[i] ? int64_t{group.expert} * p.n + first_output + r : 0;
        of_w[side].from[i] = (side == 0 ? p.left : p.right) + weight_row * p.k;
      }
    }
    const auto fetch = [&](int step) {
      if (step < steps) {
        load_rows(x[step % kStages], of_x, step * kStep, p.k);
#pragma unroll
        for (int side = 0; side < kSides; ++side)
          load_rows(w[side][step % kStages], of_w[side], step * kStep, p.k);
      }
      copy_async_commit();
    };
    __syncthreads();  // the tile before has been read
    for (int i = 0; i < kStages - 1; ++i) fetch(i);
    float d[kSides][2][4][4] = {};
    for (int step = 0; step < steps; ++step) {
      copy_async_wait<kStages - 2>();
      __syncthreads();
      fetch(step + kStages - 1);  // into the stage that the barrier has freed
      const int stage = step % kStages;
#pragma unroll
      for (int k = 0; k < kStep; k += 16) {
        uint32_t a[2][4];
#pragma unroll
        for (int i = 0; i < 2; ++i)
          load_matrix_x4(a[i], &x[stage][row + 16 * i + lane % 16][k + lane / 16 * 8]);
#pragma unroll
        for (int side = 0; side < kSides; ++side) {
          uint32_t b[2][4];
#pragma unroll
          for (int i = 0; i < 2; ++i)
            load_matrix_x4(b[i],
                           &w[side][stage][output + 16 * i + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
#pragma unroll
            for (int j = 0; j < 4; ++j)
              mma_bf16(d[side][i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
          }
        }
      }
    }
    copy_async_wait<0>();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = first_output + output + 8 * j + lane % 4 * 2;  // even, as n is
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int r = row + 16 * i + 8 * half + lane / 4;
          if (r >= rows || column >= p.n) continue;
          float v[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            v[e] = d[0][i][j][2 * half + e];
            if (!p.is_down) v[e] = activate(p.activation, v[e]);
            if constexpr (kGated) v[e] *= d[1][i][j][2 * half + e];
          }
          *reinterpret_cast<uint32_t*>(p.y + static_cast<int64_t>(first_row + r) * p.n + column) =
              pack_bf16(v[0], v[1]);
        }
      }
    }
  }
}

}  // namespace

void moe_matmul_mma(const MoeMatmul& m, cudaStream_t stream) {
  constexpr int kBlocks = 3;  // a multiprocessor, by shared memory
  const int64_t most = m.most_groups * ceil_div(m.n, kTile);
  const int64_t blocks = std::min<int64_t>(most, int64_t{kBlocks} * current_arch().sms);
  launch(m.right != nullptr ? moe_mma_kernel<true> : moe_mma_kernel<false>,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = current_arch().has_dependent_launch()},
         m);
}

}  // namespace crosscurrent::cuda
