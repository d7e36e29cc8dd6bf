// What a backend is: weights packed its own way, and sessions that run a program on them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "program.h"
#include "step.h"
#include "weights/tensor_file.h"

namespace crosscurrent {

// Rows [first_row, end_row) of a stored tensor seen as a matrix [rows, last axis].
struct WeightPart {
  std::string tensor;
  std::vector<int64_t> shape;
  int64_t first_row = 0, end_row = 0;
};

struct WeightSpec {
  std::string name;
  WeightForm form = WeightForm::matrix;
  std::vector<int64_t> shape;
  std::vector<WeightPart> parts;  // stacked along the rows
  bool neg_exp = false;           // -exp(x) of every element; f32 form only
  std::vector<float> values;      // instead of parts; f32 form only
};

// Polled by long work. A set flag ends it with Code::aborted.
using Cancel = const std::atomic<bool>&;
using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;

class Weights {
 public:
  virtual ~Weights() = default;
  virtual uint64_t bytes() const = 0;
};

struct SessionOptions {
  int32_t slots = 1;  // sequences that can hold state
  int32_t pages = 0;  // of the kv caches together
  int32_t page_tokens = 32;
  int32_t window = 64;    // most pending tokens of a sequence
  int32_t threads = 0;    // 0: the pool's
  bool exact = false;     // activations of matrix products stay f32
  DType kv = DType::f32;  // elements of the kv caches: f32, f16, bf16 or i8
  std::string isa;        // level of the kernels, as the device names it; empty: the one in use
};

struct SessionBytes {
  uint64_t arena, states, kv;
};

class Session {
 public:
  virtual ~Session() = default;
  virtual const StepLimits& limits() const = 0;
  virtual SessionBytes bytes() const = 0;
  // For each `moe` of the program, in its order: rows that each expert was given, since the session was made.
  // Callable beside a step.
  virtual std::vector<std::vector<uint64_t>> expert_loads() const = 0;
  // Runs one step. Where it throws, the sequences of the step have lost their state and must start anew.
  virtual void step(const Step& step, Cancel cancel) = 0;
  // Rows of a buffer as the last step left them: logits, sampled ids (as bits), or a traced intermediate.
  virtual std::vector<float> read(int32_t buffer) const = 0;
  // Committed elements of a state, in the logical order of its op: of a slot, or of one kv page.
  virtual std::vector<float> read_state(int32_t state, int32_t unit) const = 0;
  virtual void copy_slot(int32_t from, int32_t to) = 0;
  virtual void copy_page(int32_t from, int32_t to) = 0;
  virtual std::vector<std::byte> save(int32_t slot, std::span<const int32_t> pages) const = 0;
  virtual void restore(std::span<const std::byte> bytes, int32_t slot, std::span<const int32_t> pages) = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  // Reads, checks and packs. One missing_tensors error lists every missing or misshapen tensor.
  virtual std::shared_ptr<Weights> load(std::shared_ptr<TensorStore> store, const Program& program,
                                        const std::vector<WeightSpec>& specs, const Progress& progress,
                                        Cancel cancel) = 0;
  // Memory is refused (out_of_memory) before it is taken; missing_kernel lists every (op, dtype) without a
  // kernel.
  virtual std::unique_ptr<Session> session(std::shared_ptr<const Program> program,
                                           std::shared_ptr<Weights> weights,
                                           const SessionOptions& options) = 0;
};

// Lives for the process.
Backend& cpu_backend();

}  // namespace crosscurrent
