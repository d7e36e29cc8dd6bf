#include "run_op.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "../error.h"
#include "kernels.gen.h"

namespace crosscurrent::cpu {
namespace {

constexpr int64_t kMostElements = int64_t{1} << 48;
constexpr size_t kMostOperands = 16;

static_assert(std::ranges::all_of(kOps,
                                  [](const OpInfo& info) { return info.operands.size() <= kMostOperands; }));

const OpInfo& info_of(const OpCall& call) { return kOps[static_cast<size_t>(call.opcode)]; }

std::string label(const OpCall& call, std::string_view name) {
  return camel_case(info_of(call).name) + ": " + camel_case(name);
}

[[noreturn]] void wrong(const OpCall& call, std::string_view name, const std::string& expected,
                        const std::string& got) {
  throw Error(Code::invalid_argument, label(call, name), expected, got);
}

int64_t axis_of(const OpCall& call, int8_t axis) {
  return axis == kNoAxis ? 1 : axis == kTwo ? 2 : call.axes[static_cast<size_t>(axis)];
}

int64_t dim_of(const OpCall& call, const OperandInfo& operand, int i) {
  return axis_of(call, operand.axes[i].left) * axis_of(call, operand.axes[i].right);
}

// Of numbers that are not negative.
int64_t product(const OpCall& call, std::string_view operand, int64_t a, int64_t b) {
  if (b != 0 && a > kMostElements / b) wrong(call, operand, "at most 2^48 elements", "more");
  return a * b;
}

int64_t elements_of(const OpCall& call, const OperandInfo& operand) {
  int64_t elements = 1;
  for (int i = 0; i < operand.rank; ++i)
    for (const int8_t axis : {operand.axes[i].left, operand.axes[i].right})
      elements = product(call, operand.name, elements, axis_of(call, axis));
  return elements;
}

struct StateSize {
  int64_t elements, pending;  // of a slot; of a pending row
};

// What check_state of the kernels expects.
StateSize state_size(const OpCall& call) {
  const OpInfo& info = info_of(call);
  const auto dim = [&](size_t operand, int axis) { return dim_of(call, info.operands[operand], axis); };
  switch (call.opcode) {
    case Opcode::causal_conv1d: return {(dim(1, 1) - 1) * dim(1, 0), dim(1, 0)};
    case Opcode::selective_scan: return {dim(3, 0) * dim(3, 1), 2 * dim(3, 0) + dim(3, 1)};
    case Opcode::ssd: return {dim(0, 1) * (dim(4, 1) / call.attrs[1]), dim(0, 1) + dim(2, 0) + dim(4, 1)};
    default: return {0, 0};
  }
}

void check_axes(const OpCall& call) {
  const OpInfo& info = info_of(call);
  if (call.axes.size() != static_cast<size_t>(info.axes) || call.attrs.size() != info.attrs.size() ||
      call.operands.size() != info.operands.size())
    throw Error(Code::invalid_argument, camel_case(info.name), "the axes, attributes and operands of the op",
                "others");
  std::vector<bool> named(call.axes.size());
  for (const OperandInfo& operand : info.operands)
    for (int i = 0; i < operand.rank; ++i)
      for (const int8_t axis : {operand.axes[i].left, operand.axes[i].right})
        if (axis >= 0) named[static_cast<size_t>(axis)] = true;
  for (size_t i = 0; i < call.axes.size(); ++i) {
    const int64_t value = call.axes[i];
    if (named[i] && (value < 1 || value > INT32_MAX))
      throw Error(Code::invalid_argument, camel_case(info.name) + ": shape", "axes of 1..2^31 - 1",
                  std::to_string(value));
    if (named[i] && i < info.attrs.size() && value != call.attrs[i])
      wrong(call, info.attrs[i].name, std::to_string(value), std::to_string(call.attrs[i]));
  }
}

void check_attrs(const OpCall& call) {
  const OpInfo& info = info_of(call);
  for (size_t i = 0; i < info.attrs.size(); ++i) {
    const AttrInfo& attr = info.attrs[i];
    const int32_t word = call.attrs[i];
    if (attr.kind == AttrKind::f32 && std::isnan(std::bit_cast<float>(word)))
      wrong(call, attr.name, "a number", "NaN");
    const int32_t end = attr.kind == AttrKind::boolean ? 2 : attr.values;
    if ((attr.kind == AttrKind::boolean || attr.kind == AttrKind::enumeration) && (word < 0 || word >= end))
      wrong(call, attr.name, "0.." + std::to_string(end - 1), std::to_string(word));
  }
}

void check_matrix(const OpCall& call, const OperandInfo& operand, const OpOperand& given) {
  const int64_t n = dim_of(call, operand, operand.rank - 2), k = dim_of(call, operand, operand.rank - 1);
  const int64_t experts = operand.rank == 3 ? dim_of(call, operand, 0) : 1;
  const auto shape = [&](int64_t e, int64_t rows, int64_t columns) {
    return "[" + (operand.rank == 3 ? std::to_string(e) + ", " : "") + std::to_string(rows) + ", " +
           std::to_string(columns) + "]";
  };
  if (given.packed != nullptr) {
    const PackPlan& plan = given.packed->plan;
    if (plan.experts != experts || plan.n != n || plan.k != k)
      wrong(call, operand.name, shape(experts, n, k), shape(plan.experts, plan.n, plan.k));
    return;
  }
  if (given.dtype != DType::f32 && given.dtype != DType::f16 && given.dtype != DType::bf16)
    wrong(call, operand.name, "f32, f16, bf16 or a packed weight", std::string(dtype_info(given.dtype).name));
}

void check_operand(const OpCall& call, const OperandInfo& operand, const OpOperand& given) {
  if (!given) {
    if (operand.optional || is_state(operand.kind)) return;
    wrong(call, operand.name, "an operand", "nothing");
  }
  if (is_state(operand.kind)) return;
  if (operand.kind == OperandKind::matrix) {
    check_matrix(call, operand, given);
  } else if (given.packed != nullptr ||
             given.dtype != (operand.kind == OperandKind::i32 ? DType::i32 : DType::f32)) {
    wrong(call, operand.name, operand.kind == OperandKind::i32 ? "an Int32Array" : "a Float32Array",
          "another");
  }
  const int64_t elements = elements_of(call, operand);
  if (given.packed == nullptr && given.elements != elements)
    wrong(call, operand.name, std::to_string(elements) + " elements", std::to_string(given.elements));
}

// `first` splits [0, total) into ranges that are not empty.
void check_ranges(const OpCall& call, const std::vector<int32_t>& first, int64_t total, const char* name) {
  if (first.empty()) return;
  if (first.size() < 2 || first.front() != 0)
    wrong(call, name, "0 and the end of each sequence", std::to_string(first.size()) + " values");
  for (size_t i = 1; i < first.size(); ++i)
    if (first[i] <= first[i - 1]) wrong(call, name, "rising values", std::to_string(first[i]));
  if (first.back() != total) wrong(call, name, std::to_string(total) + " last", std::to_string(first.back()));
}

void check_states(const OpCall& call) {
  const OpInfo& info = info_of(call);
  for (size_t i = 0; i < info.operands.size(); ++i) {
    const OperandInfo& operand = info.operands[i];
    if (operand.kind != OperandKind::conv && operand.kind != OperandKind::scan) continue;
    const auto seqs = static_cast<int64_t>(std::max<size_t>(call.first.size(), 2)) - 1;
    const int64_t elements = product(call, operand.name, seqs, state_size(call).elements);
    for (const OpOperand* state : {&call.operands[i], &call.final_state}) {
      if (state == &call.operands[i] && !*state) continue;
      if (state->data == nullptr || state->dtype != DType::f32)
        wrong(call, operand.name, "a Float32Array", *state ? "another" : "nothing");
      if (state->elements != elements)
        wrong(call, operand.name, std::to_string(elements) + " elements", std::to_string(state->elements));
    }
  }
}

// What shapes alone do not say; the same as check_semantics in program.cpp.
void check_meaning(const OpCall& call) {
  const OpInfo& info = info_of(call);
  const auto dim = [&](size_t operand, int axis) { return dim_of(call, info.operands[operand], axis); };
  const auto between = [&](std::string_view name, int64_t value, int64_t low, int64_t high) {
    if (value < low || value > high)
      wrong(call, name, std::to_string(low) + ".." + std::to_string(high), std::to_string(value));
  };
  switch (call.opcode) {
    case Opcode::causal_conv1d: return between("kernel", dim(1, 1), 2, 8);
    case Opcode::ssd: {
      const int64_t heads = dim(2, 0);
      if (heads % call.attrs[1] != 0)
        wrong(call, "groups", "a divisor of " + std::to_string(heads) + " heads",
              std::to_string(call.attrs[1]));
      return;
    }
    case Opcode::rope: return between("inv_freq", dim(2, 0), 1, call.attrs[0] / 2);
    case Opcode::router: return between("top_k", call.attrs[0], 1, dim(0, 1));
    case Opcode::flash_attention: return check_attention(call);
    default: return;
  }
}

// A step with nothing in it but what kernels ask: class, ranges, slots and whether a state starts anew.
struct StepMemory {
  std::vector<int32_t> first, slot, length, accepted_first, position, parent;
  Step step;

  StepMemory(std::vector<int32_t> ranges, bool starts_anew) : first(std::move(ranges)) {
    const size_t seqs = first.size() - 1;
    length.assign(seqs, starts_anew ? 0 : 1);
    accepted_first.assign(seqs + 1, 0);
    for (size_t seq = 0; seq < seqs; ++seq) {
      slot.push_back(static_cast<int32_t>(seq));
      for (int32_t i = first[seq]; i < first[seq + 1]; ++i) {
        step.sequence.push_back(static_cast<int32_t>(seq));
        position.push_back(length[seq] + i - first[seq]);
        parent.push_back(i == first[seq] ? -1 : i - 1);
      }
    }
    step.kind = StepClass::prefill;
    step.t = first.back();
    step.seqs = static_cast<int32_t>(seqs);
    step.position = position;
    step.parent = parent;
    step.first = first;
    step.slot = slot;
    step.length = length;
    step.accepted_first = accepted_first;
  }
};

bool has_recurrent_state(const OpInfo& info) {
  return std::ranges::any_of(info.operands, [](const OperandInfo& operand) {
    return operand.kind == OperandKind::conv || operand.kind == OperandKind::scan;
  });
}

}  // namespace

std::string camel_case(std::string_view name) {
  std::string camel;
  for (size_t i = 0; i < name.size(); ++i) {
    const bool begins_word = name[i] == '_' && i + 1 < name.size();
    if (begins_word) ++i;
    const char letter = name[i];
    camel += begins_word && 'a' <= letter && letter <= 'z' ? static_cast<char>(letter - 'a' + 'A') : letter;
  }
  return camel;
}

std::vector<int32_t> ranges_of(const std::vector<int32_t>& first, int64_t total) {
  return first.empty() ? std::vector<int32_t>{0, static_cast<int32_t>(total)} : first;
}

Tensor tensor_of(const OpCall& call, size_t number) {
  const OperandInfo& info = info_of(call).operands[number];
  const OpOperand& given = call.operands[number];
  Tensor tensor;
  if (!given) return tensor;
  tensor.data = given.data;
  tensor.packed = given.packed.get();
  tensor.dtype = given.dtype;
  tensor.rank = info.rank;
  tensor.row_stride = 1;
  for (int i = 0; i < info.rank; ++i) {
    tensor.dims[i] = dim_of(call, info, i);
    if (i > 0) tensor.row_stride *= tensor.dims[i];
  }
  return tensor;
}

void check_op(const OpCall& call) {
  const auto opcode = static_cast<size_t>(call.opcode);
  if (opcode >= std::size(kOps) || kKernels[opcode] == nullptr)
    throw Error(Code::missing_kernel, "cpu", "a kernel for the op", "none for " + std::to_string(opcode));
  const OpInfo& info = info_of(call);
  check_axes(call);
  check_attrs(call);
  const bool is_attention = call.opcode == Opcode::flash_attention;
  for (size_t i = 0; i < info.operands.size(); ++i) {
    const bool is_key = is_attention && (i == 1 || i == 2);  // rows of their own: check_attention
    if (!is_key) check_operand(call, info.operands[i], call.operands[i]);
  }
  if (call.first.size() > 0 && !is_attention && !has_recurrent_state(info))
    wrong(call, "first", "nothing, as the op has no sequences",
          std::to_string(call.first.size()) + " values");
  if (is_attention || has_recurrent_state(info))
    check_ranges(call, call.first, dim_of(call, info.operands[0], 0), "first");
  check_meaning(call);
  check_states(call);
}

void run_op(const OpCall& call) {
  const IsaScope level(call.isa);
  const Pool::StepScope hot;
  if (call.opcode == Opcode::flash_attention) return run_attention(call);
  const OpInfo& info = info_of(call);
  Tensor tensors[kMostOperands];
  StateView states[kMostOperands];
  PackedMatrix views[kMostOperands];  // over weights that the caller did not pack
  size_t tensor_count = 0, state_count = 0;
  bool starts_anew = true;
  for (size_t i = 0; i < info.operands.size(); ++i) {
    if (is_state(info.operands[i].kind)) {
      const StateSize size = state_size(call);
      const OpOperand& start = call.operands[i];
      starts_anew = !start;
      if (start && start.data != call.final_state.data)
        std::memcpy(call.final_state.data, start.data, static_cast<size_t>(start.elements) * sizeof(float));
      StateView& state = states[state_count++];
      state.kind = info.operands[i].kind == OperandKind::conv ? StateKind::conv : StateKind::scan;
      state.committed = reinterpret_cast<float*>(call.final_state.data);
      state.elements = size.elements;
      state.pending_elements = size.pending;
      continue;
    }
    Tensor& tensor = tensors[tensor_count++];
    tensor = tensor_of(call, i);
    if (info.operands[i].kind == OperandKind::matrix && tensor.data != nullptr) {
      const int64_t k = tensor.dims[tensor.rank - 1];
      const PartShape shape{tensor.dtype, tensor.dims[tensor.rank - 2]};
      PackOptions options;
      options.experts = tensor.rank == 3 ? tensor.dims[0] : 1;
      views[i] = view_stored(plan_pack(std::span(&shape, 1), k, options), tensor.data, nullptr);
      tensor.packed = &views[i];
      tensor.data = nullptr;
    }
  }
  const int64_t t = has_recurrent_state(info) ? tensors[0].dims[0] : 1;
  const StepMemory memory(ranges_of(call.first, t), starts_anew);
  Step sampled;
  const bool has_options = call.opcode == Opcode::sample || call.opcode == Opcode::top_probabilities;
  if (has_options) {
    StepLimits limits{};
    limits.t = limits.seqs = limits.slots = limits.window = 1;
    limits.rows = static_cast<int32_t>(tensors[0].dims[0]);
    limits.vocab = static_cast<int32_t>(tensors[0].dims[1]);
    sampled = parse_step(call.sampling, limits);
  }
  Workspace workspace;
  Context context{has_options ? sampled : memory.step, workspace, call.threads,
                  call.exact ? Precision::exact : Precision::int8};
  kKernels[static_cast<size_t>(call.opcode)](tensors, states, call.attrs.data(), context);
}

}  // namespace crosscurrent::cpu
