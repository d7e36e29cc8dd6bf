#include "session.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "../error.h"
#include "../hash.h"
#include "pool.h"

namespace crosscurrent::cpu {
namespace {

constexpr int32_t kLost = -1;
constexpr size_t kMaxOperands = 16;
constexpr uint32_t kSaveMagic = 0x31534343;  // "CCS1"

static_assert(std::ranges::all_of(kOps,
                                  [](const OpInfo& info) { return info.operands.size() <= kMaxOperands; }));

struct SaveHeader {
  uint32_t magic;
  int32_t page_tokens, pages, pending;
  uint64_t state_hash;  // of the states' shapes and types: the layout of what follows
};

uint64_t state_hash(const Program& program, DType kv) {
  Fnv1a hash;
  hash.add_word(static_cast<uint64_t>(kv));
  for (const StateShape& state : program.states) {
    hash.add_word(static_cast<uint64_t>(state.kind));
    hash.add_word(static_cast<uint64_t>(state.elements));
    hash.add_word(static_cast<uint64_t>(state.pending_elements));
  }
  return hash.value();
}

uint64_t multiply(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product))
    throw Error(Code::out_of_memory, "state", "a size within 64 bits", "more");
  return product;
}

// Operands of `moe` by their place.
constexpr size_t kExpertIds = 1, kExpertMatrices = 3;

void check_positive(const char* operand, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw Error(Code::invalid_argument, operand, std::to_string(low) + ".." + std::to_string(high),
                std::to_string(value));
}

}  // namespace

CpuSession::CpuSession(std::shared_ptr<const Program> program, std::shared_ptr<CpuWeights> weights,
                       const SessionOptions& options)
    : program_(std::move(program)), weights_(std::move(weights)), options_(options) {
  if (weights_->shapes != program_->weights || weights_->gathered != program_->gathered)
    throw Error(Code::invalid_argument, "weights", "those of the program", "others");
  check_positive("slots", options.slots, 1, 1 << 20);
  check_positive("pages", options.pages, 0, 1 << 28);
  check_positive("pageTokens", options.page_tokens, 1, 4096);
  check_positive("window", options.window, 1, 4096);
  check_positive("threads", options.threads, 0, Pool::kMaxThreads);
  if (!options.isa.empty()) isa_ = required_isa(options.isa);
  check_kernels();
  const bool has_kv = std::ranges::any_of(
      program_->states, [](const StateShape& state) { return state.kind == StateKind::kv; });
  limits_ = {program_->bounds.t, program_->bounds.seqs, program_->bounds.rows,
             options.slots,      options.pages,         has_kv ? options.page_tokens : 0,
             options.window,     program_->vocab};
  pending_count_.assign(static_cast<size_t>(options.slots), kLost);
  plan_memory();
  resolve_buffers();
  for (const OpRecord& op : program_->ops)
    if (op.opcode == Opcode::moe)
      expert_loads_.emplace_back(static_cast<size_t>(operand(op, kExpertMatrices).dims[0]));
}

void CpuSession::check_kernels() const {
  std::vector<bool> seen(std::size(kOps));
  std::string missing;
  for (const OpRecord& op : program_->ops) {
    const auto opcode = static_cast<size_t>(op.opcode);
    if (kKernels[opcode] == nullptr && !seen[opcode])
      missing += (missing.empty() ? "" : ", ") + std::string(kOps[opcode].name) + " (f32)";
    seen[opcode] = true;
  }
  if (!missing.empty())
    throw Error(Code::missing_kernel, "cpu", "a kernel for every op", "none for " + missing);
}

KvLayout CpuSession::layout_of(size_t state) const {
  for (const OpRecord& op : program_->ops) {
    if (op.opcode != Opcode::flash_attention) continue;
    const auto operands = kOps[static_cast<size_t>(op.opcode)].operands;
    for (size_t i = 0; i < operands.size(); ++i)
      if (is_state(operands[i].kind) &&
          program_->buffers[static_cast<size_t>(op.operands[i])].index == static_cast<int32_t>(state))
        return {options_.kv, op.attrs[0], options_.page_tokens};
  }
  throw Error(Code::invalid_program, "state " + std::to_string(state), "an op that owns it", "none");
}

int64_t CpuSession::kv_page_bytes(size_t state) const {
  const KvLayout layout = layout_of(state);
  return program_->states[state].elements / (2 * layout.head_dim()) * layout.head_bytes();
}

void CpuSession::plan_memory() {
  bytes_.arena = static_cast<uint64_t>(program_->arena_bytes);
  std::vector<uint64_t> committed, pending;
  std::vector<int64_t> page_bytes;
  for (const StateShape& state : program_->states) {
    const bool is_kv = state.kind == StateKind::kv;
    page_bytes.push_back(is_kv ? kv_page_bytes(committed.size()) : 0);
    committed.push_back(
        is_kv
            ? multiply(static_cast<uint64_t>(options_.pages), static_cast<uint64_t>(page_bytes.back()))
            : multiply(multiply(static_cast<uint64_t>(options_.slots), static_cast<uint64_t>(state.elements)),
                       sizeof(float)));
    pending.push_back(is_kv ? 0
                            : multiply(multiply(static_cast<uint64_t>(options_.slots) *
                                                    static_cast<uint64_t>(options_.window),
                                                static_cast<uint64_t>(state.pending_elements)),
                                       sizeof(float)));
    (is_kv ? bytes_.kv : bytes_.states) += committed.back() + pending.back();
  }
  require_memory("session", bytes_.arena + bytes_.kv + bytes_.states);
  arena_ = PageBlock("arena", bytes_.arena);
  for (size_t i = 0; i < committed.size(); ++i) {
    committed_.emplace_back("state", committed[i]);
    pending_.emplace_back("pending state", pending[i]);
    const StateShape& state = program_->states[i];
    StateView view{.kind = state.kind,
                   .elements = state.elements,
                   .pending_elements = state.pending_elements,
                   .window = options_.window,
                   .page_bytes = page_bytes[i],
                   .page_tokens = options_.page_tokens,
                   .dtype = options_.kv};
    if (state.kind == StateKind::kv) {
      view.pages = committed_[i].data();
    } else {
      view.committed = reinterpret_cast<float*>(committed_[i].data());
      view.pending = reinterpret_cast<float*>(pending_[i].data());
    }
    states_.push_back(view);
  }
}

void CpuSession::resolve_buffers() {
  for (const Buffer& buffer : program_->buffers) {
    Tensor tensor;
    tensor.dtype = buffer.dtype;
    tensor.rank = buffer.rank;
    tensor.dims[0] = buffer.symbol == Symbol::constant ? buffer.times : 0;
    for (int axis = 0; axis < 3; ++axis) tensor.dims[axis + 1] = buffer.inner[axis];
    tensor.row_stride = buffer.row_stride;
    const auto index = static_cast<size_t>(buffer.index);
    if (buffer.role == Role::scratch)
      tensor.data = arena_.data() + index * 64 + static_cast<size_t>(buffer.offset) * 4;
    if (buffer.role == Role::weight) {
      CpuWeight& weight = weights_->list[index];
      if (static_cast<WeightForm>(buffer.detail) == WeightForm::matrix) {
        const bool is_whole = tensor.rank != 2 || tensor.dims[0] == weight.matrix.plan.n;
        tensor.packed =
            is_whole ? &weight.matrix : &cut_.emplace_back(first_rows(weight.matrix, tensor.dims[0]));
        tensor.dtype = weight.dtype;
      } else {
        tensor.data = reinterpret_cast<std::byte*>(weight.values.data());
      }
    }
    tensors_.push_back(tensor);
  }
}

void CpuSession::bind_inputs(const Step& step) {
  const Bounds sizes{step.t, step.seqs, step.rows};
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const Buffer& buffer = program_->buffers[i];
    if (buffer.symbol != Symbol::constant) tensors_[i].dims[0] = buffer.lead(sizes);
    if (buffer.role != Role::input) continue;
    const std::span<const int32_t> values =
        std::array{step.ids, step.position, step.row_index}[static_cast<size_t>(buffer.index)];
    // kernels only read their inputs
    tensors_[i].data = reinterpret_cast<std::byte*>(const_cast<int32_t*>(values.data()));
  }
}

void CpuSession::check_pending(const Step& step) const {
  for (int seq = 0; seq < step.seqs; ++seq) {
    const int32_t pending = pending_count_[static_cast<size_t>(step.slot[seq])];
    const int32_t count = step.accepted_count(seq);
    if (step.length[seq] == 0 && count == 0) continue;  // starts anew
    if (pending == kLost)
      throw Error(Code::invalid_state, "slot " + std::to_string(step.slot[seq]), "a state",
                  "none (never filled, or lost in a failed step)");
    const int32_t last = count > 0 ? step.accepted[step.accepted_first[seq + 1] - 1] : -1;
    if (last >= pending)
      throw Error(Code::invalid_argument, "step: accepted", "nodes below " + std::to_string(pending),
                  std::to_string(last));
  }
}

void CpuSession::count_experts(const OpRecord& op, std::vector<std::atomic<uint64_t>>& load) const {
  const Tensor& ids = operand(op, kExpertIds);
  for (int64_t row = 0; row < ids.dims[0]; ++row)
    for (int64_t i = 0; i < ids.dims[1]; ++i)
      load[static_cast<size_t>(ids.i32(row)[i])].fetch_add(1, std::memory_order_relaxed);
}

std::vector<std::vector<uint64_t>> CpuSession::expert_loads() const {
  std::vector<std::vector<uint64_t>> loads;
  for (const auto& load : expert_loads_) loads.emplace_back(load.begin(), load.end());
  return loads;
}

void CpuSession::run_op(const OpRecord& op, Context& context) {
  Tensor tensors[kMaxOperands];
  StateView states[kMaxOperands];
  size_t tensor_count = 0, state_count = 0;
  const auto operands = kOps[static_cast<size_t>(op.opcode)].operands;
  for (size_t i = 0; i < operands.size(); ++i) {
    const int32_t number = op.operands[i];
    if (is_state(operands[i].kind)) {
      states[state_count++] =
          states_[static_cast<size_t>(program_->buffers[static_cast<size_t>(number)].index)];
      continue;
    }
    tensors[tensor_count] = number < 0 ? Tensor{} : tensors_[static_cast<size_t>(number)];
    if (operands[i].is_output && tensors[tensor_count].dims[0] == 0) return;  // no row wants it
    ++tensor_count;
  }
  workspace_.reset();
  kKernels[static_cast<size_t>(op.opcode)](tensors, states, op.attrs.data(), context);
}

void CpuSession::step(const Step& step, Cancel cancel) {
  check_pending(step);
  bind_inputs(step);
  const Pool::StepScope hot;
  const IsaScope level(isa_);
  Context context{step, workspace_, options_.threads, options_.exact ? Precision::exact : Precision::int8};
  for (const int32_t slot : step.slot) pending_count_[static_cast<size_t>(slot)] = kLost;
  const bool samples = !step.sampling.empty();
  auto load = expert_loads_.begin();
  for (const OpRecord& op : program_->ops) {
    if (cancel.load(std::memory_order_relaxed)) throw Error(Code::aborted, "the step was cancelled");
    if (op.opcode == Opcode::sample && !samples) continue;
    run_op(op, context);
    if (op.opcode == Opcode::moe) count_experts(op, *load++);
  }
  for (int seq = 0; seq < step.seqs; ++seq)
    pending_count_[static_cast<size_t>(step.slot[seq])] =
        step.kind == StepClass::decode ? step.tokens_of(seq) : 0;
}

std::vector<float> CpuSession::read(int32_t number) const {
  check_positive("buffer", number, 0, static_cast<int64_t>(tensors_.size()) - 1);
  const Tensor& tensor = tensors_[static_cast<size_t>(number)];
  if (program_->buffers[static_cast<size_t>(number)].role != Role::scratch)
    throw Error(Code::invalid_argument, "buffer", "an intermediate", "a weight, an input or a state");
  const int64_t width = tensor.dims[1] * tensor.dims[2] * tensor.dims[3];
  std::vector<float> values(static_cast<size_t>(tensor.dims[0] * width));
  for (int64_t row = 0; row < tensor.dims[0]; ++row)
    std::memcpy(values.data() + row * width, tensor.f32(row), static_cast<size_t>(width) * sizeof(float));
  return values;
}

std::vector<float> CpuSession::read_state(int32_t number, int32_t unit) const {
  check_positive("state", number, 0, static_cast<int64_t>(states_.size()) - 1);
  const StateView& state = states_[static_cast<size_t>(number)];
  const bool is_kv = state.kind == StateKind::kv;
  check_positive(is_kv ? "page" : "slot", unit, 0, (is_kv ? options_.pages : options_.slots) - 1);
  if (!is_kv) return {state.slot(unit), state.slot(unit) + state.elements};
  const KvLayout layout = layout_of(static_cast<size_t>(number));
  const KvLayout plain(DType::f32, layout.head_dim(), state.page_tokens);
  std::vector<float> page(static_cast<size_t>(state.elements * state.page_tokens));
  std::vector<float> k(static_cast<size_t>(layout.head_dim())), v(k.size());
  for (int64_t head = 0; head < state.elements / (2 * layout.head_dim()); ++head) {
    std::byte* to = reinterpret_cast<std::byte*>(page.data()) + head * plain.head_bytes();
    for (int64_t token = 0; token < state.page_tokens; ++token) {
      layout.get(layout.row(state.page(unit) + head * layout.head_bytes(), token), k.data(), v.data());
      plain.put(plain.row(to, token), k.data(), v.data());
    }
  }
  return page;
}

void CpuSession::check_slot(int32_t slot) const { check_positive("slot", slot, 0, options_.slots - 1); }

void CpuSession::check_pages(std::span<const int32_t> pages) const {
  for (const int32_t page : pages) check_positive("page", page, 0, options_.pages - 1);
}

void CpuSession::copy_slot(int32_t from, int32_t to) {
  check_slot(from);
  check_slot(to);
  if (from == to) return;
  const int32_t pending = pending_count_[static_cast<size_t>(from)];
  for (const StateView& state : states_) {
    if (state.kind == StateKind::kv) continue;
    std::copy_n(state.slot(from), state.elements, state.slot(to));
    if (pending > 0)
      std::copy_n(state.pending_row(from, 0), pending * state.pending_elements, state.pending_row(to, 0));
  }
  pending_count_[static_cast<size_t>(to)] = pending;
}

void CpuSession::copy_page(int32_t from, int32_t to) {
  const std::array pages{from, to};
  check_pages(pages);
  if (from == to) return;
  for (const StateView& state : states_)
    if (state.kind == StateKind::kv) std::copy_n(state.page(from), state.page_bytes, state.page(to));
}

// Every block of memory that makes up a sequence, in the order in which it is saved.
template <class Visit>
void CpuSession::visit_blocks(int32_t slot, std::span<const int32_t> pages, int32_t pending,
                              Visit&& visit) const {
  const auto visit_floats = [&](float* block, int64_t count) {
    visit(reinterpret_cast<std::byte*>(block), static_cast<size_t>(count) * sizeof(float));
  };
  for (const StateView& state : states_) {
    if (state.kind == StateKind::kv) {
      for (const int32_t page : pages) visit(state.page(page), static_cast<size_t>(state.page_bytes));
      continue;
    }
    visit_floats(state.slot(slot), state.elements);
    visit_floats(state.pending_row(slot, 0), pending * state.pending_elements);
  }
}

std::vector<std::byte> CpuSession::save(int32_t slot, std::span<const int32_t> pages) const {
  check_slot(slot);
  check_pages(pages);
  const int32_t pending = pending_count_[static_cast<size_t>(slot)];
  if (pending == kLost) throw Error(Code::invalid_state, "slot " + std::to_string(slot), "a state", "none");
  const SaveHeader header{kSaveMagic, options_.page_tokens, static_cast<int32_t>(pages.size()), pending,
                          state_hash(*program_, options_.kv)};
  size_t size = sizeof(header);
  visit_blocks(slot, pages, pending, [&](const std::byte*, size_t count) { size += count; });
  std::vector<std::byte> bytes(size);
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::byte* at = bytes.data() + sizeof(header);
  visit_blocks(slot, pages, pending, [&](const std::byte* block, size_t count) {
    std::memcpy(at, block, count);
    at += count;
  });
  return bytes;
}

void CpuSession::restore(std::span<const std::byte> bytes, int32_t slot, std::span<const int32_t> pages) {
  check_slot(slot);
  check_pages(pages);
  const auto wrong = [](const char* operand, const std::string& expected, const std::string& got) {
    throw Error(Code::invalid_state, std::string("saved state: ") + operand, expected, got);
  };
  SaveHeader header;
  if (bytes.size() < sizeof(header))
    wrong("size", "at least " + std::to_string(sizeof(header)) + " bytes", std::to_string(bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kSaveMagic) wrong("magic", std::to_string(kSaveMagic), std::to_string(header.magic));
  if (header.state_hash != state_hash(*program_, options_.kv))
    wrong("model", "the states of this model, caches as " + std::string(kv_name(options_.kv)), "others");
  if (header.page_tokens != options_.page_tokens)
    wrong("page size", std::to_string(options_.page_tokens), std::to_string(header.page_tokens));
  if (header.pages != static_cast<int64_t>(pages.size()))
    wrong("pages", std::to_string(pages.size()), std::to_string(header.pages));
  if (header.pending < 0 || header.pending > options_.window)
    wrong("pending", "0.." + std::to_string(options_.window), std::to_string(header.pending));
  size_t expected = sizeof(header);
  visit_blocks(slot, pages, header.pending, [&](const std::byte*, size_t count) { expected += count; });
  if (bytes.size() != expected)
    wrong("size", std::to_string(expected) + " bytes", std::to_string(bytes.size()));
  const std::byte* at = bytes.data() + sizeof(header);
  visit_blocks(slot, pages, header.pending, [&](std::byte* block, size_t count) {
    std::memcpy(block, at, count);
    at += count;
  });
  pending_count_[static_cast<size_t>(slot)] = header.pending;
}

}  // namespace crosscurrent::cpu
