// rms_norm: y = x / sqrt(mean(x^2) + eps) * weight, over groups of `width` elements of a row
#include "../ops.gen.h"
#include "isa.h"
#include "norm_kernels.h"
#include "split.h"

namespace crosscurrent::cpu {

const NormKernels& norm_kernels() {
#if defined(__x86_64__)
  static constexpr IsaTables<NormKernels> kTables{.v2 = &kNormV2, .avx2 = &kNormAvx2};
#else
  static constexpr IsaTables<NormKernels> kTables{.v2 = &kNormV2};
#endif
  return kTables.active();
}

void rms_norm(const RmsNorm& a, Context& context) {
  const NormKernels& kernels = norm_kernels();
  const float* weight = a.weight ? a.weight.f32() : nullptr;
  for_ranges(context, a.rows, a.groups * a.width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t group = 0; group < a.groups; ++group)
        kernels.rms(a.x.f32(row) + group * a.width, weight, a.y.f32(row) + group * a.width, a.width, a.eps);
  });
}

}  // namespace crosscurrent::cpu
