#include "act_mul_kernels.h"

namespace crosscurrent::cpu {

const ActMulKernels kActMulAvx2 = kActMulRows;

}  // namespace crosscurrent::cpu
