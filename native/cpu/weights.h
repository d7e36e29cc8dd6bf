// Weights of a program as CPU kernels read them.
#pragma once

#include <vector>

#include "../backend.h"
#include "pack.h"

namespace crosscurrent::cpu {

struct CpuWeight {
  PackedMatrix matrix;        // form matrix
  std::vector<float> values;  // form f32
  DType dtype = DType::f32;   // as stored; of the first part
};

class CpuWeights final : public Weights {
 public:
  uint64_t bytes() const override;
  std::vector<CpuWeight> list;  // by weight number; empty entries for weights that no op reads
  std::vector<Buffer>
      shapes;  // of the program they were packed for: another program may use them only with the same
  std::vector<bool> gathered;
};

std::shared_ptr<CpuWeights> load_weights(const TensorStore& store, const Program& program,
                                         const std::vector<WeightSpec>& specs, const Progress& progress,
                                         Cancel cancel);

}  // namespace crosscurrent::cpu
