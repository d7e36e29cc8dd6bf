#include "../backend.h"

#include "../error.h"
#include "session.h"
#include "weights.h"

namespace crosscurrent {
namespace {

class CpuBackend final : public Backend {
 public:
  std::shared_ptr<Weights> load(std::shared_ptr<TensorStore> store, const Program& program,
                                const std::vector<WeightSpec>& specs, const Progress& progress,
                                Cancel cancel) override {
    return cpu::load_weights(*store, program, specs, progress, cancel);
  }

  std::unique_ptr<Session> session(std::shared_ptr<const Program> program, std::shared_ptr<Weights> weights,
                                   const SessionOptions& options) override {
    auto own = std::dynamic_pointer_cast<cpu::CpuWeights>(weights);
    if (!own) throw Error(Code::invalid_argument, "weights", "packed by the cpu backend", "by another");
    return std::make_unique<cpu::CpuSession>(std::move(program), std::move(own), options);
  }
};

}  // namespace

Backend& cpu_backend() {
  static CpuBackend& backend = *new CpuBackend;  // never destroyed: sessions may outlive static destruction
  return backend;
}

}  // namespace crosscurrent
