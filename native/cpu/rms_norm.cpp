// rms_norm: y = x / sqrt(mean(x^2) + eps) * weight, over groups of `width` elements of a row
#include <cmath>

#include "../ops.gen.h"
#include "simd/vector.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

float sum_of_squares(const float* x, int64_t count) {
  F32x8 first{}, second{};  // two chains hide the latency of an add
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const F32x8 a = load8(x + i), b = load8(x + i + kLanes);
    first += a * a;
    second += b * b;
  }
  for (; i < count; i += kLanes) {
    const F32x8 a = load_part(x + i, static_cast<int>(count - i), 0);
    first += a * a;
  }
  return sum8(first + second);
}

}  // namespace

void rms_norm(const RmsNorm& a, Context& context) {
  const int64_t width = a.width;
  const float* weight = a.weight ? a.weight.f32() : nullptr;
  for_ranges(context, a.rows, a.groups * width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t group = 0; group < a.groups; ++group) {
        const float* x = a.x.f32(row) + group * width;
        float* y = a.y.f32(row) + group * width;
        const float scale = 1.0f / std::sqrt(sum_of_squares(x, width) / static_cast<float>(width) + a.eps);
        if (weight != nullptr)
          for (int64_t i = 0; i < width; ++i) y[i] = x[i] * scale * weight[i];
        else
          for (int64_t i = 0; i < width; ++i) y[i] = x[i] * scale;
      }
    }
  });
}

}  // namespace crosscurrent::cpu
