// act_mul: y = act(gate) * up
#include "../ops.gen.h"
#include "act_mul_kernels.h"
#include "isa.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__x86_64__)
constexpr IsaTables<ActMulKernels> kKernels{
    .v2 = &kActMulV2, .avx2 = &kActMulAvx2, .avx512_vnni = &kActMulAvx512Vnni};
#else
constexpr IsaTables<ActMulKernels> kKernels{.v2 = &kActMulV2};
#endif

ActMulKernels::Row row_of(Activation activation) {
  const ActMulKernels& kernels = kKernels.active();
  switch (activation) {
    case Activation::silu: return kernels.silu;
    case Activation::gelu: return kernels.gelu;
    case Activation::relu2: return kernels.relu2;
    case Activation::none: break;
  }
  return kernels.none;
}

}  // namespace

void act_mul(const ActMul& a, Context& context) {
  const auto row_kernel = row_of(a.activation);
  for_ranges(context, a.rows, 4 * a.ff, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      row_kernel(a.gate.f32(row), a.up ? a.up.f32(row) : nullptr, a.y.f32(row), a.ff);
  });
}

}  // namespace crosscurrent::cpu
