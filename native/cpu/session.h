// A program resolved to CPU kernels, with the memory it runs in.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "../backend.h"
#include "isa.h"
#include "kernels.gen.h"
#include "kv_layout.h"
#include "memory.h"
#include "weights.h"

namespace crosscurrent::cpu {

class CpuSession final : public Session {
 public:
  CpuSession(std::shared_ptr<const Program> program, std::shared_ptr<CpuWeights> weights,
             const SessionOptions& options);

  const StepLimits& limits() const override { return limits_; }
  SessionBytes bytes() const override { return bytes_; }
  std::vector<std::vector<uint64_t>> expert_loads() const override;
  void step(const Step& step, Cancel cancel) override;
  std::vector<float> read(int32_t buffer) const override;
  std::vector<float> read_state(int32_t state, int32_t unit) const override;
  void copy_slot(int32_t from, int32_t to) override;
  void copy_page(int32_t from, int32_t to) override;
  std::vector<std::byte> save(int32_t slot, std::span<const int32_t> pages) const override;
  void restore(std::span<const std::byte> bytes, int32_t slot, std::span<const int32_t> pages) override;

 private:
  void check_kernels() const;
  KvLayout layout_of(size_t state) const;  // of a kv state
  int64_t kv_page_bytes(size_t state) const;
  void plan_memory();
  void resolve_buffers();
  void bind_inputs(const Step& step);
  const Tensor& operand(const OpRecord& op, size_t i) const {
    return tensors_[static_cast<size_t>(op.operands[i])];
  }
  void count_experts(const OpRecord& op, std::vector<std::atomic<uint64_t>>& load) const;
  void check_pending(const Step& step) const;
  void run_op(const OpRecord& op, Context& context);
  void check_slot(int32_t slot) const;
  void check_pages(std::span<const int32_t> pages) const;
  template <class Visit>
  void visit_blocks(int32_t slot, std::span<const int32_t> pages, int32_t pending, Visit&& visit) const;

  std::shared_ptr<const Program> program_;
  std::shared_ptr<CpuWeights> weights_;
  SessionOptions options_;
  std::optional<Isa> isa_;
  StepLimits limits_{};
  SessionBytes bytes_{};
  PageBlock arena_;
  std::vector<PageBlock> committed_, pending_;  // by state
  std::vector<StateView> states_;
  std::vector<Tensor> tensors_;   // by buffer
  std::deque<PackedMatrix> cut_;  // weights of which a buffer is only the first rows
  // Pending nodes of each slot; kLost after a step failed in the middle.
  std::vector<std::vector<std::atomic<uint64_t>>> expert_loads_;  // by moe op, by expert
  std::vector<int32_t> pending_count_;
  Workspace workspace_;
};

}  // namespace crosscurrent::cpu
