#include "matmul_sm90.h"
#include "matmul_stream.h"
#include "packed_matmul.h"
#include "ptx.cuh"

namespace crosscurrent::cuda {
namespace {

bool uses_wgmma(const PackedMatmulArgs& a) {
  return a.row_class == RowClass::prefill && a.m > kStreamTokens && current_arch().has_wgmma();
}

void check_args(const PackedMatmulArgs& a) {
  const PackedShape& s = a.shape;
  check_packed_shape(s);
  if (s.bits == 8) check(!s.has_zero, "packed_matmul: weight", "8 bits without zero points", "zero points");
  check(a.m >= 0 && a.m <= kMostRows, "packed_matmul: m", "0 … " + std::to_string(kMostRows), a.m);
  const int64_t n = s.gated ? s.n / 2 : s.n;
  check(a.x_stride >= s.k && a.x_stride % 8 == 0, "packed_matmul: x_stride",
        "a multiple of 8, at least k = " + std::to_string(s.k), a.x_stride);
  check(a.y_stride >= n && a.y_stride % 8 == 0, "packed_matmul: y_stride",
        "a multiple of 8, at least n = " + std::to_string(n), a.y_stride);
  if (a.m == 0 || n == 0) return;
  check(s.k > 0, "packed_matmul: k", "at least one group", s.k);
  check_pointer("packed_matmul: weight", a.weight, 256);
  check_pointer("packed_matmul: x", a.x, 16);
  check_pointer("packed_matmul: y", a.y, 16);
  if (a.bias != nullptr) check_pointer("packed_matmul: bias", a.bias, 2);
  if (a.permutation != nullptr) check_pointer("packed_matmul: permutation", a.permutation, 16);
  const Arch& arch = current_arch();
  check(arch.compute >= 80, "packed_matmul: architecture", "compute capability 8.0 or later", arch.compute);
}

// The streaming kernel gathers x by itself; TMA cannot.
bool needs_gather(const PackedMatmulArgs& a) { return uses_wgmma(a) && a.permutation != nullptr; }

// ordered[t, j] = x[t, permutation[j]]: 8 columns a thread.
__global__ void gather_kernel(const bf16* x, int64_t x_stride, const int32_t* permutation, bf16* ordered,
                              int64_t k, int64_t pieces) {
  launch_dependents();
  grid_dependency_wait();
  const int64_t piece = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (piece >= pieces) return;
  const int64_t token = piece / (k / 8), column = piece % (k / 8) * 8;
  const bf16* const row = x + token * x_stride;
  __align__(16) bf16 values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = row[permutation[column + i]];
  *reinterpret_cast<uint4*>(ordered + token * k + column) = *reinterpret_cast<const uint4*>(values);
}

}  // namespace

size_t packed_matmul_workspace(const PackedMatmulArgs& a) {
  return needs_gather(a) ? static_cast<size_t>(a.m) * static_cast<size_t>(a.shape.k) * sizeof(bf16) : 0;
}

void packed_matmul_stream(const PackedMatmulArgs& a, int tiles, cudaStream_t stream) {
  check_args(a);
  if (a.m == 0 || a.shape.n == 0) return;
  (a.shape.bits == 4 ? int4_stream : int8_stream)(a, tiles, stream);
}

void packed_matmul(const PackedMatmulArgs& a, Workspace workspace, cudaStream_t stream) {
  check_args(a);
  check_workspace("packed_matmul: workspace", workspace, packed_matmul_workspace(a));
  if (a.m == 0 || a.shape.n == 0) return;
  if (uses_wgmma(a)) {
    const bf16* x = a.x;
    int64_t x_stride = a.x_stride;
    PackedMatmulArgs gathered = a;
    if (needs_gather(a)) {
      auto* const ordered = static_cast<bf16*>(workspace.data);
      const int64_t pieces = a.m * (a.shape.k / 8);
      launch(gather_kernel,
             {.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(pieces, 256))),
              .block = dim3(256),
              .stream = stream,
              .dependent = a.dependent},
             a.x, a.x_stride, a.permutation, ordered, a.shape.k, pieces);
      x = ordered, x_stride = a.shape.k;
      gathered.dependent = true;
    }
    return (a.shape.bits == 4 ? int4_sm90 : int8_sm90)(gathered, x, x_stride, stream);
  }
  packed_matmul_stream(a, stream_tiles(current_arch(), a.shape, a.m), stream);
}

}  // namespace crosscurrent::cuda
