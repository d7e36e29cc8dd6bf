// rope: one block a token; cosines and sines of its position once for all heads, in shared memory.
#include <algorithm>

#include "ptx.cuh"
#include "rope.h"
#include "row_vectors.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostPairs = 512;

// As native/cpu/rope.cpp: the angle is reduced in f64, so that positions of a long context lose nothing.
__device__ float2 cos_sin(float angle) {
  const double quadrants = nearbyint(static_cast<double>(angle) * 0.63661977236758134308);
  const auto r = static_cast<float>(static_cast<double>(angle) - quadrants * 1.57079632679489661923);
  const float z = r * r;
  const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
  const float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
                  0.5f * z + 1.0f;
  const auto quadrant = static_cast<int64_t>(quadrants) & 3;
  const float cosine = quadrant % 2 != 0 ? s : c, sine = quadrant % 2 != 0 ? c : s;
  return {quadrant == 1 || quadrant == 2 ? -cosine : cosine, quadrant >= 2 ? -sine : sine};
}

template <class T>
__global__ void __launch_bounds__(kThreads) rope_kernel(const __grid_constant__ RopeArgs a) {
  __shared__ float2 table[kMostPairs];
  launch_dependents();
  grid_dependency_wait();
  const int64_t token = blockIdx.x;
  const auto half = static_cast<int>(a.half);
  const auto position = static_cast<float>(a.position[token]);
  for (int i = threadIdx.x; i < half; i += kThreads) {
    const float2 v = cos_sin(position * a.inv_freq[i]);
    table[i] = {v.x * a.scale, v.y * a.scale};
  }
  __syncthreads();
  const int first = a.interleaved ? 2 : 1, second = a.interleaved ? 1 : half, rest = a.head_dim - 2 * half;
  for (int i = threadIdx.x; i < static_cast<int>(a.heads) * (half + rest); i += kThreads) {
    const int head = i / (half + rest), pair = i % (half + rest);
    const T* x = static_cast<const T*>(a.x) + token * a.x_stride + head * a.head_dim;
    T* y = static_cast<T*>(a.y) + token * a.y_stride + head * a.head_dim;
    if (pair >= half) {
      y[pair + half] = x[pair + half];
      continue;
    }
    const float left = as_float(x[pair * first]), right = as_float(x[pair * first + second]);
    const float2 v = table[pair];
    y[pair * first] = from_float<T>(left * v.x - right * v.y);
    y[pair * first + second] = from_float<T>(right * v.x + left * v.y);
  }
}

}  // namespace

void rope(const RopeArgs& a, cudaStream_t stream) {
  check_dtype("rope: dtype", a.dtype);
  check(a.t >= 0 && a.t < int64_t{1} << 31, "rope: t", "0 to 2^31 - 1", a.t);
  check(a.heads >= 1 && a.heads <= 65535, "rope: heads", "1 to 65535", a.heads);
  check(a.head_dim >= 2 && a.head_dim <= 2048, "rope: head_dim", "2 to 2048", a.head_dim);
  check(a.half >= 1 && a.half <= std::min<int64_t>(kMostPairs, a.head_dim / 2), "rope: half",
        "1 to " + std::to_string(std::min<int64_t>(kMostPairs, a.head_dim / 2)), a.half);
  const int64_t width = a.heads * a.head_dim;
  check(a.x_stride >= width, "rope: x_stride", "at least " + std::to_string(width), a.x_stride);
  check(a.y_stride >= width, "rope: y_stride", "at least " + std::to_string(width), a.y_stride);
  if (a.t == 0) return;
  check_pointer("rope: x", a.x, element_bytes(a.dtype));
  check_pointer("rope: y", a.y, element_bytes(a.dtype));
  check_pointer("rope: position", a.position, 4);
  check_pointer("rope: inv_freq", a.inv_freq, 4);
  launch(a.dtype == DType::bf16 ? rope_kernel<bf16> : rope_kernel<float>,
         {.grid = dim3(static_cast<unsigned>(a.t)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = current_arch().has_dependent_launch()},
         a);
}

}  // namespace crosscurrent::cuda
