#include "norm_kernels.h"

namespace crosscurrent::cpu {

const NormKernels kNormV2 = kNormRows;

}  // namespace crosscurrent::cpu
