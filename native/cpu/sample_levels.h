// The passes over logits of the level in use.
#pragma once

#include "sample_kernels.h"

namespace crosscurrent::cpu {

const SampleKernels& sample_kernels();

}  // namespace crosscurrent::cpu
