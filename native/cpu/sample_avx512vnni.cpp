#include "sample_kernels.h"

namespace crosscurrent::cpu {

const SampleKernels kSampleAvx512Vnni = kSamplePasses;

}  // namespace crosscurrent::cpu
