#include "sample_kernels.h"

namespace crosscurrent::cpu {

const SampleKernels kSampleV2 = kSamplePasses;

}  // namespace crosscurrent::cpu
