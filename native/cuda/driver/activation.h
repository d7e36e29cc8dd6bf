// The activation of an expert's gate in float64, for the references of the experts' drivers.
#pragma once

#include <cmath>

#include "../act_mul.h"

namespace crosscurrent::cuda::driver {

inline double act(Activation a, double g) {
  switch (a) {
    case Activation::silu: return g / (1 + std::exp(-g));
    case Activation::gelu: return 0.5 * g * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)));
    case Activation::relu2: return g > 0 ? g * g : 0;
    case Activation::none: break;
  }
  return g;
}

}  // namespace crosscurrent::cuda::driver
