#include "matmul_stream.h"
#include "packed_matmul.h"

namespace crosscurrent::cuda {
namespace {

void check_args(const PackedMatmulArgs& a) {
  const PackedShape& s = a.shape;
  check_packed_shape(s);
  if (s.bits == 8) check(!s.has_zero, "packed_matmul: weight", "8 bits without zero points", "zero points");
  check(a.m >= 0 && a.m <= INT32_MAX / 2, "packed_matmul: m", "0 … 2^30", a.m);
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

}  // namespace

size_t packed_matmul_workspace(const PackedMatmulArgs&) { return 0; }

void packed_matmul_stream(const PackedMatmulArgs& a, const StreamTile& tile, cudaStream_t stream) {
  check_args(a);
  if (a.m == 0 || a.shape.n == 0) return;
  (a.shape.bits == 4 ? int4_stream : int8_stream)(a, tile, stream);
}

void packed_matmul(const PackedMatmulArgs& a, Workspace workspace, cudaStream_t stream) {
  check_args(a);
  check_workspace("packed_matmul: workspace", workspace, packed_matmul_workspace(a));
  if (a.m == 0 || a.shape.n == 0) return;
  packed_matmul_stream(a, stream_tile(current_arch(), a.shape), stream);
}

}  // namespace crosscurrent::cuda
