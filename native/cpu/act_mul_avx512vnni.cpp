#include "act_mul_kernels.h"

namespace crosscurrent::cpu {

const ActMulKernels kActMulAvx512Vnni = kActMulRows;

}  // namespace crosscurrent::cpu
