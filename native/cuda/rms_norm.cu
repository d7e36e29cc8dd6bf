#include "rms_norm.cuh"

namespace crosscurrent::cuda {
namespace {

template <class T, int kVector, bool kAdds>
__global__ void rms_norm_kernel(const __grid_constant__ RmsNormArgs a) {
  using Vector = RowVector<T, kVector>;
  launch_dependents();
  grid_dependency_wait();
  const int64_t at = (int64_t{blockIdx.x} * a.groups + blockIdx.y) * a.width;
  norm_row<kVector>(
      static_cast<int>(a.width), a.eps,
      [&](int i, float (&h)[kVector]) {
        const Vector x = Vector::load(static_cast<const T*>(a.x) + at + i);
#pragma unroll
        for (int k = 0; k < kVector; ++k) h[k] = x[k];
        if constexpr (kAdds) {
          const Vector residual = Vector::load(static_cast<const T*>(a.residual) + at + i);
          Vector sum;
#pragma unroll
          for (int k = 0; k < kVector; ++k) {
            sum.set(k, h[k] + residual[k]);
            h[k] = sum[k];
          }
          sum.store(static_cast<T*>(a.sum) + at + i);
        }
      },
      [&](int i, const float (&h)[kVector], float scale) {
        Vector y;
#pragma unroll
        for (int k = 0; k < kVector; ++k) y.set(k, h[k] * scale * (a.weight ? a.weight[i + k] : 1.0f));
        y.store(static_cast<T*>(a.y) + at + i);
      });
}

}  // namespace

void rms_norm(const RmsNormArgs& a, cudaStream_t stream) {
  check_dtype("rms_norm: dtype", a.dtype);
  check(a.width >= 1 && a.width <= kNormMaxWidth, "rms_norm: width", "1 to 32768", a.width);
  check(a.groups >= 1 && a.groups <= 65535, "rms_norm: groups", "1 to 65535", a.groups);
  check(a.rows >= 0 && a.rows < int64_t{1} << 31, "rms_norm: rows", "0 to 2^31 - 1", a.rows);
  if (a.rows == 0) return;
  check_pointer("rms_norm: x", a.x, element_bytes(a.dtype));
  check_pointer("rms_norm: y", a.y, element_bytes(a.dtype));
  if (a.residual != nullptr) {
    check_pointer("rms_norm: residual", a.residual, element_bytes(a.dtype));
    check_pointer("rms_norm: sum", a.sum, element_bytes(a.dtype));
  }
  if (a.weight != nullptr) check_pointer("rms_norm: weight", a.weight, 4);
  const bool vectors = takes_vectors(a.dtype, a.width, a.x, a.residual, a.sum, a.y);
  with_vectors(a.dtype, vectors, [&]<class T, int kVector>() {
    launch(a.residual ? rms_norm_kernel<T, kVector, true> : rms_norm_kernel<T, kVector, false>,
           {.grid = dim3(static_cast<unsigned>(a.rows), static_cast<unsigned>(a.groups)),
            .block = dim3(static_cast<unsigned>(norm_threads(a.width, kVector))),
            .stream = stream,
            .dependent = current_arch().has_dependent_launch()},
           a);
  });
}

}  // namespace crosscurrent::cuda
