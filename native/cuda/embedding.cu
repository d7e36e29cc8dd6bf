// embedding: one block a token. The ids are device data that no launcher can check: a bad one must not read
// beyond the table, and shows as NaN.
#include <cmath>

#include "embedding.h"
#include "rms_norm.cuh"

namespace crosscurrent::cuda {
namespace {

template <class T, int kVector>
__global__ void embedding_kernel(const __grid_constant__ EmbeddingArgs a) {
  launch_dependents();
  grid_dependency_wait();
  const int64_t token = blockIdx.x, id = a.ids[token];
  const bool is_known = id >= 0 && id < a.vocab;
  for (int64_t i = int64_t{threadIdx.x} * kVector; i < a.dim; i += int64_t{blockDim.x} * kVector) {
    RowVector<T, kVector> y;
    if (is_known) {
      const auto row = RowVector<bf16, kVector>::load(a.weight + id * a.dim + i);
#pragma unroll
      for (int k = 0; k < kVector; ++k) y.set(k, a.scale * row[k]);
    } else {
#pragma unroll
      for (int k = 0; k < kVector; ++k) y.set(k, NAN);
    }
    y.store(static_cast<T*>(a.y) + token * a.dim + i);
  }
}

}  // namespace

void embedding(const EmbeddingArgs& a, cudaStream_t stream) {
  check_dtype("embedding: dtype", a.dtype);
  check(a.t >= 0 && a.t < int64_t{1} << 31, "embedding: t", "0 to 2^31 - 1", a.t);
  check(a.vocab >= 1, "embedding: vocab", "1 or more", a.vocab);
  check(a.dim >= 1, "embedding: dim", "1 or more", a.dim);
  if (a.t == 0) return;
  check_pointer("embedding: ids", a.ids, 4);
  check_pointer("embedding: weight", a.weight, 2);
  check_pointer("embedding: y", a.y, element_bytes(a.dtype));
  with_vectors(a.dtype, takes_vectors(a.dtype, a.dim, a.weight, a.y), [&]<class T, int kVector>() {
    launch(embedding_kernel<T, kVector>,
           {.grid = dim3(static_cast<unsigned>(a.t)),
            .block = dim3(static_cast<unsigned>(std::min(256, norm_threads(a.dim, kVector)))),
            .stream = stream,
            .dependent = current_arch().has_dependent_launch()},
           a);
  });
}

}  // namespace crosscurrent::cuda
