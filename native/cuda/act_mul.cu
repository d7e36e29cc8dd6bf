// act_mul: a thread takes eight elements of a row, or one where rows are not aligned. Memory-bound.
#include "act_mul.cuh"
#include "act_mul.h"
#include "rms_norm.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kThreads = 256;

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) act_mul_kernel(const __grid_constant__ ActMulArgs a) {
  using Vector = RowVector<T, kVector>;
  launch_dependents();
  grid_dependency_wait();
  const int64_t width = a.ff / kVector, step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < a.rows * width; i += step) {
    const int64_t row = i / width, column = i % width * kVector;
    Vector y = Vector::load(static_cast<const T*>(a.gate) + row * a.gate_stride + column);
    if (a.up != nullptr) {
      const Vector up = Vector::load(static_cast<const T*>(a.up) + row * a.up_stride + column);
#pragma unroll
      for (int k = 0; k < kVector; ++k) y.set(k, activate(a.activation, y[k]) * up[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kVector; ++k) y.set(k, activate(a.activation, y[k]));
    }
    y.store(static_cast<T*>(a.y) + row * a.ff + column);
  }
}

}  // namespace

void act_mul(const ActMulArgs& a, cudaStream_t stream) {
  check_dtype("act_mul: dtype", a.dtype);
  check(a.rows >= 0 && a.rows < int64_t{1} << 31, "act_mul: rows", "0 to 2^31 - 1", a.rows);
  check(a.ff >= 1 && a.ff < int64_t{1} << 31, "act_mul: ff", "1 to 2^31 - 1", a.ff);
  check(a.gate_stride >= a.ff, "act_mul: gate_stride", "at least " + std::to_string(a.ff), a.gate_stride);
  if (a.up != nullptr)
    check(a.up_stride >= a.ff, "act_mul: up_stride", "at least " + std::to_string(a.ff), a.up_stride);
  if (a.rows == 0) return;
  check_pointer("act_mul: gate", a.gate, element_bytes(a.dtype));
  check_pointer("act_mul: y", a.y, element_bytes(a.dtype));
  if (a.up != nullptr) check_pointer("act_mul: up", a.up, element_bytes(a.dtype));
  const bool vectors = takes_vectors(a.dtype, a.ff, a.gate, a.up, a.y) && a.gate_stride % 8 == 0 &&
                       (a.up == nullptr || a.up_stride % 8 == 0);
  with_vectors(a.dtype, vectors, [&]<class T, int kVector>() {
    const int64_t blocks = ceil_div<int64_t>(a.rows * (a.ff / kVector), kThreads);
    launch(act_mul_kernel<T, kVector>,
           {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(blocks, 16 * current_arch().sms))),
            .block = dim3(kThreads),
            .stream = stream,
            .dependent = current_arch().has_dependent_launch()},
           a);
  });
}

}  // namespace crosscurrent::cuda
