// add: y = a + scale * b
#include "../ops.gen.h"
#include "split.h"

namespace crosscurrent::cpu {

void add(const Add& a, Context& context) {
  for_ranges(context, a.rows, a.dim, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float *left = a.a.f32(row), *right = a.b.f32(row);
      float* y = a.y.f32(row);
      for (int64_t i = 0; i < a.dim; ++i) y[i] = left[i] + a.scale * right[i];
    }
  });
}

}  // namespace crosscurrent::cpu
