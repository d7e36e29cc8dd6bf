#include "norm_kernels.h"

namespace crosscurrent::cpu {

const NormKernels kNormAvx2 = kNormRows;

}  // namespace crosscurrent::cpu
