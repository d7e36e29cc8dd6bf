#include "sample_kernels.h"

namespace crosscurrent::cpu {

const SampleKernels kSampleAvx2 = kSamplePasses;

}  // namespace crosscurrent::cpu
