#include "state_kernels.h"

#include "../ops.gen.h"
#include "isa.h"

namespace crosscurrent::cpu {

static_assert(static_cast<int>(Activation::none) == kActivationNone &&
              static_cast<int>(Activation::silu) == kActivationSilu &&
              static_cast<int>(Activation::gelu) == kActivationGelu &&
              static_cast<int>(Activation::relu2) == kActivationRelu2);

const StateKernels& state_kernels() {
#if defined(__x86_64__)
  static constexpr IsaTables<StateKernels> kTables{
      .v2 = &kStateKernelsV2, .avx2 = &kStateKernelsAvx2, .avx512_vnni = &kStateKernelsAvx512Vnni};
#else
  static constexpr IsaTables<StateKernels> kTables{.v2 = &kStateKernelsV2};
#endif
  return kTables.active();
}

}  // namespace crosscurrent::cpu
