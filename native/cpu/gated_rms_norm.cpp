// gated_rms_norm: h = x * silu(z), y = h / sqrt(mean(h^2) + eps) * weight, over groups of `width` elements of
// a row
#include "../ops.gen.h"
#include "norm_kernels.h"
#include "split.h"

namespace crosscurrent::cpu {

void gated_rms_norm(const GatedRmsNorm& a, Context& context) {
  const NormKernels& kernels = norm_kernels();
  for_ranges(context, a.rows, 4 * a.groups * a.width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t group = 0; group < a.groups; ++group) {
        const int64_t at = group * a.width;
        kernels.gated(a.x.f32(row) + at, a.z.f32(row) + at, a.weight.f32() + at, a.y.f32(row) + at, a.width,
                      a.eps);
      }
    }
  });
}

}  // namespace crosscurrent::cpu
