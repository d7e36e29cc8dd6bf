#include "act_mul_kernels.h"

namespace crosscurrent::cpu {

const ActMulKernels kActMulV2 = kActMulRows;

}  // namespace crosscurrent::cpu
