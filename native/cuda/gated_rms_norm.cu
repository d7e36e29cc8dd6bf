#include "act_mul.cuh"
#include "gated_rms_norm.h"
#include "rms_norm.cuh"

namespace crosscurrent::cuda {
namespace {

template <class T, int kVector>
__global__ void gated_rms_norm_kernel(const __grid_constant__ GatedRmsNormArgs a) {
  using Vector = RowVector<T, kVector>;
  launch_dependents();
  grid_dependency_wait();
  const int64_t column = blockIdx.y * a.width, at = int64_t{blockIdx.x} * a.groups * a.width + column;
  const T* gate = static_cast<const T*>(a.z) + blockIdx.x * a.z_stride + column;
  norm_row<kVector>(
      static_cast<int>(a.width), a.eps,
      [&](int i, float (&h)[kVector]) {
        const Vector x = Vector::load(static_cast<const T*>(a.x) + at + i), z = Vector::load(gate + i);
#pragma unroll
        for (int k = 0; k < kVector; ++k) h[k] = x[k] * activate(Activation::silu, z[k]);
      },
      [&](int i, const float (&h)[kVector], float scale) {
        Vector y;
#pragma unroll
        for (int k = 0; k < kVector; ++k) y.set(k, h[k] * scale * a.weight[column + i + k]);
        y.store(static_cast<T*>(a.y) + at + i);
      });
}

}  // namespace

void gated_rms_norm(const GatedRmsNormArgs& a, cudaStream_t stream) {
  check_dtype("gated_rms_norm: dtype", a.dtype);
  check(a.width >= 1 && a.width <= kNormMaxWidth, "gated_rms_norm: width", "1 to 32768", a.width);
  check(a.groups >= 1 && a.groups <= 65535, "gated_rms_norm: groups", "1 to 65535", a.groups);
  check(a.rows >= 0 && a.rows < int64_t{1} << 31, "gated_rms_norm: rows", "0 to 2^31 - 1", a.rows);
  check(a.z_stride >= a.groups * a.width, "gated_rms_norm: z_stride",
        "at least " + std::to_string(a.groups * a.width), a.z_stride);
  if (a.rows == 0) return;
  check_pointer("gated_rms_norm: x", a.x, element_bytes(a.dtype));
  check_pointer("gated_rms_norm: z", a.z, element_bytes(a.dtype));
  check_pointer("gated_rms_norm: y", a.y, element_bytes(a.dtype));
  check_pointer("gated_rms_norm: weight", a.weight, 4);
  const bool vectors = takes_vectors(a.dtype, a.width, a.x, a.z, a.y) && a.z_stride % 8 == 0;
  with_vectors(a.dtype, vectors, [&]<class T, int kVector>() {
    launch(gated_rms_norm_kernel<T, kVector>,
           {.grid = dim3(static_cast<unsigned>(a.rows), static_cast<unsigned>(a.groups)),
            .block = dim3(static_cast<unsigned>(norm_threads(a.width, kVector))),
            .stream = stream,
            .dependent = current_arch().has_dependent_launch()},
           a);
  });
}

}  // namespace crosscurrent::cuda
