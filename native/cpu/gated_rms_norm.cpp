// gated_rms_norm: h = x * silu(z), y = h / sqrt(mean(h^2) + eps) * weight, over groups of `width` elements of
// a row
#include <algorithm>
#include <cmath>

#include "../ops.gen.h"
#include "simd/vector.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

// Leaves h in y; returns the sum of its squares.
float gate(const float* x, const float* z, float* y, int64_t count) {
  F32x8 sum{};
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    const F32x8 h = lanes == kLanes ? load8(x + i) * silu8(load8(z + i))
                                    : load_part(x + i, lanes, 0) * silu8(load_part(z + i, lanes, 0));
    if (lanes == kLanes)
      store8(y + i, h);
    else
      store_part(y + i, h, lanes);
    sum += h * h;
  }
  return sum8(sum);
}

}  // namespace

void gated_rms_norm(const GatedRmsNorm& a, Context& context) {
  const int64_t width = a.width;
  for_ranges(context, a.rows, 4 * a.groups * width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t group = 0; group < a.groups; ++group) {
        const int64_t at = group * width;
        float* y = a.y.f32(row) + at;
        const float* weight = a.weight.f32() + at;
        const float squares = gate(a.x.f32(row) + at, a.z.f32(row) + at, y, width);
        const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + a.eps);
        for (int64_t i = 0; i < width; ++i) y[i] = y[i] * scale * weight[i];
      }
    }
  });
}

}  // namespace crosscurrent::cpu
