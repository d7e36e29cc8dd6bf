// What rms_norm and gated_rms_norm share: one block a group of a row, which stays in registers between the
// sum and the scaling. Memory-bound.
#pragma once

#include <algorithm>

#include "ptx.cuh"
#include "rms_norm.h"
#include "row_vectors.cuh"

namespace crosscurrent::cuda {

constexpr int kNormHeld = 32;  // elements of a thread

// Threads that hold `width` elements, eight or one at a time: a function of the width alone, so that a row's
// bits are too.
inline int norm_threads(int64_t width, int vector) {
  const int64_t wanted = ceil_div<int64_t>(width, vector);
  return static_cast<int>(std::min<int64_t>(1024, round_up<int64_t>(wanted, 32)));
}

// element(i) gives kVector values of h from column i on, finish(i, h, scale) takes them back.
template <int kVector, class Element, class Finish>
__device__ __forceinline__ void norm_row(int width, float eps, const Element& element, const Finish& finish) {
  __shared__ float shared[32];
  float held[kNormHeld / kVector][kVector];
  float squares = 0;
#pragma unroll
  for (int j = 0; j < kNormHeld / kVector; ++j) {
    const int i = (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector;
    if (i >= width) break;
    element(i, held[j]);
#pragma unroll
    for (int k = 0; k < kVector; ++k) squares = __fmaf_rn(held[j][k], held[j][k], squares);
  }
  const float mean = sum_of_block(squares, shared) / static_cast<float>(width);
  const float scale = 1.0f / sqrtf(mean + eps);
#pragma unroll
  for (int j = 0; j < kNormHeld / kVector; ++j) {
    const int i = (j * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * kVector;
    if (i >= width) break;
    finish(i, held[j], scale);
  }
}

// body<T, vector>() for the dtype and whether eight elements are taken at a time.
template <class Body>
void with_vectors(DType dtype, bool vectors, const Body& body) {
  if (dtype == DType::bf16)
    vectors ? body.template operator()<bf16, 8>() : body.template operator()<bf16, 1>();
  else
    vectors ? body.template operator()<float, 8>() : body.template operator()<float, 1>();
}

}  // namespace crosscurrent::cuda
