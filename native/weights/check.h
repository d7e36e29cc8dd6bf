// Whether a store holds what a model's weights name.
#pragma once

#include <string>
#include <vector>

#include "../backend.h"

namespace crosscurrent {

// One Code::missing_tensors error that lists every missing tensor, every wrong shape and every weight whose
// parts do not add up to its own shape, and the weights whose shape is not the program's.
void check_weights(const TensorStore& store, const Program& program, const std::vector<WeightSpec>& specs);

}  // namespace crosscurrent
