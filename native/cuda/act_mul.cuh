// Activations, as native/cpu/act_mul_kernels.h defines them.
#pragma once

#include "../ops.gen.h"
#include "launch.cuh"

namespace crosscurrent::cuda {

__device__ __forceinline__ float activate(Activation activation, float g) {
  switch (activation) {
    case Activation::silu: return g / (1.0f + __expf(-g));
    case Activation::gelu: {
      const float inner = 0.7978845608f * (g + 0.044715f * g * g * g);  // sqrt(2 / pi)
      return 0.5f * g * (2.0f - 2.0f / (__expf(2 * inner) + 1.0f));     // 1 + tanh
    }
    case Activation::relu2: {
      const float positive = g < 0 ? 0.0f : g;  // NaN stays NaN
      return positive * positive;
    }
    case Activation::none: break;
  }
  return g;
}

}  // namespace crosscurrent::cuda
