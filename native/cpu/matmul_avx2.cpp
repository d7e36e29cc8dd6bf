// matmul at the AVX2 + FMA + F16C level.
#include "matmul_kernels.h"

namespace crosscurrent::cpu {

const MatmulKernels kMatmulAvx2 = kMatmulV2;

}  // namespace crosscurrent::cpu
