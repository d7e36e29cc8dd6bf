// rope: rotates the pairs (a, b) of the first 2 half elements of each head by theta = position * inv_freq[i]:
// a' = (a cos - b sin) scale, b' = (b cos + a sin) scale
#include <cmath>
#include <cstring>

#include "../ops.gen.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

// cos and sin of an f32 angle, within 1 ulp. The angle is reduced in f64: positions of a long context times a
// frequency of 1 lose nothing there. Polynomials of Cephes' cosf and sinf (Moshier) on |r| <= pi / 4.
void cos_sin(float angle, float* cosine, float* sine) {
  const double quadrants = std::nearbyint(static_cast<double>(angle) * 0.63661977236758134308);
  const auto r = static_cast<float>(static_cast<double>(angle) - quadrants * 1.57079632679489661923);
  const float z = r * r;
  const float s = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
  const float c = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z -
                  0.5f * z + 1.0f;
  const auto quadrant = static_cast<int64_t>(quadrants) & 3;
  const bool swaps = (quadrant & 1) != 0;
  const float cos_size = swaps ? s : c, sin_size = swaps ? c : s;
  *cosine = quadrant == 1 || quadrant == 2 ? -cos_size : cos_size;
  *sine = quadrant >= 2 ? -sin_size : sin_size;
}

}  // namespace

void rope(const Rope& a, Context& context) {
  const int64_t half = a.half, rest = a.head_dim - 2 * half;
  float* table = context.workspace.take<float>(a.t * half *
                                               2);  // cos and sin of a token side by side, once for all heads
  for_ranges(context, a.t, half * (16 + 4 * a.heads), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float *cosine = table + row * half * 2, *sine = cosine + half;
      const auto position = static_cast<float>(*a.position.i32(row));
      for (int64_t i = 0; i < half; ++i) {
        cos_sin(position * a.inv_freq.f32()[i], cosine + i, sine + i);
        cosine[i] *= a.scale;
        sine[i] *= a.scale;
      }
      for (int64_t head = 0; head < a.heads; ++head) {
        const float* x = a.x.f32(row) + head * a.head_dim;
        float* y = a.y.f32(row) + head * a.head_dim;
        const int64_t first = a.interleaved ? 2 : 1, second = a.interleaved ? 1 : half;
        for (int64_t i = 0; i < half; ++i) {
          const float left = x[i * first], right = x[i * first + second];
          y[i * first] = left * cosine[i] - right * sine[i];
          y[i * first + second] = right * cosine[i] + left * sine[i];
        }
        if (rest > 0) std::memmove(y + 2 * half, x + 2 * half, static_cast<size_t>(rest) * sizeof(float));
      }
    }
  });
}

}  // namespace crosscurrent::cpu
