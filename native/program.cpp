#include "program.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "error.h"

namespace crosscurrent {
namespace {

constexpr int32_t kMagic = 0x31504343;  // "CCP1"
constexpr int kHeaderWords = 12;
constexpr int kBufferWords = 12;
constexpr int32_t kMaxBuffers = 1 << 20, kMaxOps = 1 << 20, kMaxWeights = 1 << 20, kMaxStates = 1 << 16;
constexpr int32_t kMaxBound = 1 << 20;
constexpr int64_t kMaxElements = int64_t{1} << 40;
constexpr int64_t kArenaUnit = 64;

[[noreturn]] void wrong(const std::string& operand, const std::string& expected, const std::string& got) {
  throw Error(Code::invalid_program, "program: " + operand, expected, got);
}
[[noreturn]] void wrong(const std::string& operand, const std::string& expected, int64_t got) {
  wrong(operand, expected, std::to_string(got));
}

void check_between(const std::string& operand, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high) wrong(operand, std::to_string(low) + ".." + std::to_string(high), value);
}

Buffer parse_buffer(std::span<const int32_t> w, int number) {
  const std::string label = "buffer " + std::to_string(number);
  check_between(label + " role", w[0], 0, 3);
  const Buffer buffer{static_cast<Role>(w[0]),
                      static_cast<DType>(w[1]),
                      w[2],
                      static_cast<Symbol>(w[3]),
                      w[4],
                      {w[5], w[6], w[7]},
                      w[8],
                      w[9],
                      w[10],
                      w[11]};
  if (buffer.dtype != DType::f32 && buffer.dtype != DType::i32) wrong(label + " dtype", "f32 or i32", w[1]);
  check_between(label + " rank", buffer.rank, 0, 4);
  check_between(label + " symbol", w[3], 0, 3);
  check_between(label + " first axis", buffer.times, 1, INT32_MAX);
  int64_t row = 1;
  for (int axis = 0; axis < 3; ++axis) {
    check_between(label + " axis", buffer.inner[axis], 1, INT32_MAX);
    if (axis >= std::max(buffer.rank - 1, 0) && buffer.role != Role::state && buffer.inner[axis] != 1)
      wrong(label + " axis beyond its rank", "1", buffer.inner[axis]);
    row *= buffer.inner[axis];
    if (row > kMaxElements) wrong(label + " row", "at most 2^40 elements", row);
  }
  check_between(label + " index", buffer.index, 0, INT32_MAX);
  check_between(label + " offset", buffer.offset, 0, INT32_MAX);
  if (buffer.role != Role::state && buffer.row_stride < row)
    wrong(label + " row stride", ">= " + std::to_string(row), buffer.row_stride);
  if (buffer.role != Role::scratch && buffer.offset != 0) wrong(label + " offset", "0", buffer.offset);
  return buffer;
}

// The same weight, or of a packed matrix only its first rows.
bool same_or_cut(const Buffer& a, const Buffer& b) {
  if (a.rank != b.rank || a.detail != b.detail || !std::equal(a.inner, a.inner + 3, b.inner)) return false;
  const bool may_be_cut = a.rank == 2 && static_cast<WeightForm>(a.detail) == WeightForm::matrix;
  return a.times == b.times || may_be_cut;
}

void check_storage(const Buffer& buffer, int number, const Program& program, int32_t weights,
                   int32_t states) {
  const std::string label = "buffer " + std::to_string(number);
  const int64_t lead = buffer.lead(program.bounds);
  switch (buffer.role) {
    case Role::weight: {
      check_between(label + " weight", buffer.index, 0, int64_t{weights} - 1);
      check_between(label + " form", buffer.detail, 0, 1);
      if (buffer.symbol != Symbol::constant || buffer.rank < 1)
        wrong(label, "a weight of fixed shape", "another");
      int64_t elements = lead;
      for (const int32_t dim : buffer.inner) {
        elements *= dim;
        if (elements > kMaxElements) wrong(label, "at most 2^40 elements", elements);
      }
      int64_t row = 1;
      for (const int32_t dim : buffer.inner) row *= dim;
      if (buffer.row_stride != row) wrong(label + " row stride", std::to_string(row), buffer.row_stride);
      return;
    }
    case Role::input: {
      check_between(label + " input", buffer.index, 0, 2);
      const Symbol symbol =
          static_cast<StepInput>(buffer.index) == StepInput::rows ? Symbol::rows : Symbol::t;
      if (buffer.dtype != DType::i32 || buffer.rank != 1 || buffer.symbol != symbol || buffer.times != 1 ||
          buffer.row_stride != 1)
        wrong(label, "i32 [t] or [rows]", "another shape");
      return;
    }
    case Role::state:
      check_between(label + " state", buffer.index, 0, int64_t{states} - 1);
      check_between(label + " state kind", buffer.detail, 0, 2);
      return;
    case Role::scratch: {
      if (buffer.rank < 1) wrong(label + " rank", "1..4", buffer.rank);
      int64_t row = 1;
      for (const int32_t dim : buffer.inner) row *= dim;
      if (buffer.row_stride > kMaxElements / std::max<int64_t>(lead, 1))
        wrong(label + " size", "at most 2^40 elements", "more");
      const int64_t elements = buffer.offset + (lead - 1) * buffer.row_stride + row;
      const int64_t end = buffer.index * kArenaUnit + elements * 4;
      if (end > program.arena_bytes)
        wrong(label + " end", "at most " + std::to_string(program.arena_bytes), end);
      return;
    }
  }
}

struct SymbolicDim {
  Symbol symbol;
  int64_t times;
  bool operator==(const SymbolicDim&) const = default;
};

std::string show(SymbolicDim dim) {
  constexpr const char* kNames[] = {"", "t", "seqs", "rows"};
  if (dim.symbol == Symbol::constant) return std::to_string(dim.times);
  return std::to_string(dim.times) + "*" + kNames[static_cast<int>(dim.symbol)];
}

// Binds the axes of one op while its operands are looked at, as addNode in src/ops/define.ts does.
class AxisBinder {
 public:
  AxisBinder(const OpInfo& info, std::span<const int32_t> attrs, std::string label)
      : info_(info), label_(std::move(label)), axes_(static_cast<size_t>(info.axes)) {
    for (size_t i = 0; i < info.attrs.size(); ++i)
      if (info.attrs[i].kind == AttrKind::i32) axes_[i] = SymbolicDim{Symbol::constant, attrs[i]};
  }

  void bind(const OperandInfo& operand, const Buffer& buffer) {
    const std::string label = label_ + " " + std::string(operand.name);
    if (buffer.rank != operand.rank) wrong(label, std::to_string(operand.rank) + " axes", buffer.rank);
    for (int i = 0; i < operand.rank; ++i) {
      const SymbolicDim dim = i == 0 ? SymbolicDim{buffer.symbol, buffer.times}
                                     : SymbolicDim{Symbol::constant, buffer.inner[i - 1]};
      bind_axis(label, operand.axes[i], dim);
    }
  }

 private:
  void bind_axis(const std::string& label, AxisProduct axis, SymbolicDim dim) {
    if (axis.right == kNoAxis) return match(label, axis.left, dim);
    if (dim.symbol != Symbol::constant) wrong(label, "a fixed size", show(dim));
    const auto value_of = [&](int8_t name) -> std::optional<SymbolicDim> {
      return name == kTwo ? SymbolicDim{Symbol::constant, 2} : axes_[static_cast<size_t>(name)];
    };
    const bool left_known = value_of(axis.left).has_value();
    const auto known = left_known ? value_of(axis.left) : value_of(axis.right);
    if (!known || known->symbol != Symbol::constant || known->times <= 0 || dim.times % known->times != 0)
      wrong(label, "a multiple of " + (known ? show(*known) : "a known axis"), show(dim));
    match(label, left_known ? axis.right : axis.left, {Symbol::constant, dim.times / known->times});
  }

  void match(const std::string& label, int8_t name, SymbolicDim dim) {
    auto& bound = axes_[static_cast<size_t>(name)];
    if (!bound) bound = dim;
    if (*bound != dim) wrong(label, show(*bound), show(dim));
  }

  const OpInfo& info_;
  std::string label_;
  std::vector<std::optional<SymbolicDim>> axes_;
};

void check_kind(const std::string& label, const OperandInfo& operand, const Buffer& buffer) {
  const auto require = [&](bool right, const char* expected) {
    if (!right) wrong(label, expected, "buffer of another role or dtype");
  };
  const bool is_f32_weight =
      buffer.role == Role::weight && static_cast<WeightForm>(buffer.detail) == WeightForm::f32;
  switch (operand.kind) {
    case OperandKind::f32:
      return operand.is_output
                 ? require(buffer.role == Role::scratch && buffer.dtype == DType::f32, "f32 scratch")
                 : require(buffer.dtype == DType::f32 && (buffer.role == Role::scratch || is_f32_weight),
                           "f32");
    case OperandKind::i32:
      return operand.is_output
                 ? require(buffer.role == Role::scratch && buffer.dtype == DType::i32, "i32 scratch")
                 : require(buffer.dtype == DType::i32 &&
                               (buffer.role == Role::scratch || buffer.role == Role::input),
                           "i32");
    case OperandKind::matrix:
      return require(buffer.role == Role::weight && !is_f32_weight, "a packed weight");
    case OperandKind::kv:
    case OperandKind::conv:
    case OperandKind::scan: {
      const auto kind =
          static_cast<StateKind>(static_cast<int>(operand.kind) - static_cast<int>(OperandKind::kv));
      return require(buffer.role == Role::state && static_cast<StateKind>(buffer.detail) == kind,
                     "a state of the op's kind");
    }
  }
}

int64_t axis_value(const Program& program, const OpRecord& op, size_t operand, int axis) {
  const Buffer& buffer = program.buffers[static_cast<size_t>(op.operands[operand])];
  return axis == 0 ? buffer.times : buffer.inner[axis - 1];
}

// What the shapes alone do not say: sizes of states and of attributes that index into rows.
void check_semantics(const Program& program, const OpRecord& op, const std::string& label) {
  const auto state_of = [&](size_t operand) {
    return program
        .states[static_cast<size_t>(program.buffers[static_cast<size_t>(op.operands[operand])].index)];
  };
  const auto expect_state = [&](size_t operand, int64_t elements, int64_t pending) {
    const StateShape state = state_of(operand);
    if (state.elements != elements || state.pending_elements != pending)
      wrong(label + " state", std::to_string(elements) + " and " + std::to_string(pending) + " elements",
            std::to_string(state.elements) + " and " + std::to_string(state.pending_elements));
  };
  switch (op.opcode) {
    case Opcode::flash_attention: {
      expect_state(5, 2 * axis_value(program, op, 1, 1), 1);
      const int64_t heads = axis_value(program, op, 0, 1) / op.attrs[0],
                    kv_heads = axis_value(program, op, 1, 1) / op.attrs[0];
      if (heads % kv_heads != 0) wrong(label + " heads", "a multiple of " + std::to_string(kv_heads), heads);
      if (op.attrs[2] < 0) wrong(label + " window", "0 or more", op.attrs[2]);
      return;
    }
    case Opcode::causal_conv1d: {
      const int64_t channels = axis_value(program, op, 1, 0), kernel = axis_value(program, op, 1, 1);
      if (kernel < 2 || kernel > 8) wrong(label + " kernel", "2..8", kernel);
      return expect_state(3, (kernel - 1) * channels, channels);
    }
    case Opcode::selective_scan: {
      const int64_t channels = axis_value(program, op, 3, 0), states = axis_value(program, op, 3, 1);
      return expect_state(8, channels * states, 2 * channels + states);
    }
    case Opcode::ssd: {
      const int64_t inner = axis_value(program, op, 0, 1), heads = axis_value(program, op, 2, 0),
                    width = axis_value(program, op, 4, 1);
      const int64_t groups = op.attrs[1];
      if (heads % groups != 0) wrong(label + " heads", "a multiple of " + std::to_string(groups), heads);
      return expect_state(7, inner * (width / groups), inner + heads + width);
    }
    case Opcode::rope:
      if (2 * axis_value(program, op, 2, 0) > op.attrs[0])
        wrong(label + " inv_freq", "at most head_dim / 2 values", axis_value(program, op, 2, 0));
      return;
    case Opcode::router:
      check_between(label + " top_k", op.attrs[0], 1, axis_value(program, op, 0, 1));
      return;
    default: return;
  }
}

OpRecord parse_op(std::span<const int32_t> words, const Program& program, int number) {
  const std::string where = "op " + std::to_string(number);
  if (words.size() < 2) wrong(where, "a record", "the end of the words");
  check_between(where + " opcode", words[0], 0, static_cast<int64_t>(std::size(kOps)) - 1);
  const OpInfo& info = kOps[words[0]];
  const std::string label = where + " (" + std::string(info.name) + ")";
  const size_t size = 2 + info.operands.size() + info.attrs.size();
  if (words[1] != static_cast<int64_t>(size) || words.size() < size)
    wrong(label + " words", std::to_string(size), words[1]);
  OpRecord op{static_cast<Opcode>(words[0]), {}, {}};
  op.operands.assign(words.begin() + 2, words.begin() + 2 + static_cast<int64_t>(info.operands.size()));
  op.attrs.assign(words.begin() + 2 + static_cast<int64_t>(info.operands.size()),
                  words.begin() + static_cast<int64_t>(size));
  for (size_t i = 0; i < info.attrs.size(); ++i) {
    const std::string name = label + " " + std::string(info.attrs[i].name);
    if (info.attrs[i].kind == AttrKind::boolean) check_between(name, op.attrs[i], 0, 1);
    if (info.attrs[i].kind == AttrKind::enumeration)
      check_between(name, op.attrs[i], 0, info.attrs[i].values - 1);
    if (info.attrs[i].kind == AttrKind::f32 && std::isnan(std::bit_cast<float>(op.attrs[i])))
      wrong(name, "a number", "NaN");
  }
  AxisBinder binder(info, op.attrs, label);
  for (size_t i = 0; i < info.operands.size(); ++i) {
    const OperandInfo& operand = info.operands[i];
    const std::string name = label + " " + std::string(operand.name);
    if (op.operands[i] == -1 && operand.optional) continue;
    check_between(name, op.operands[i], 0, static_cast<int64_t>(program.buffers.size()) - 1);
    const Buffer& buffer = program.buffers[static_cast<size_t>(op.operands[i])];
    check_kind(name, operand, buffer);
    if (!is_state(operand.kind)) binder.bind(operand, buffer);
  }
  check_semantics(program, op, label);
  return op;
}

}  // namespace

Program Program::parse(std::span<const int32_t> words) {
  if (words.size() < kHeaderWords)
    wrong("size", "at least " + std::to_string(kHeaderWords) + " words", static_cast<int64_t>(words.size()));
  if (words[0] != kMagic) wrong("magic", std::to_string(kMagic), words[0]);
  if (words[1] != kSignatureHash)
    wrong("op declarations", std::to_string(kSignatureHash) + " (this build)", words[1]);
  check_between("buffers", words[2], 1, kMaxBuffers);
  check_between("ops", words[3], 1, kMaxOps);
  Program program;
  for (int i = 4; i < 7; ++i) check_between("bounds", words[static_cast<size_t>(i)], 1, kMaxBound);
  program.bounds = {words[4], words[5], words[6]};
  check_between("arena", words[7], 0, INT32_MAX);
  program.arena_bytes = words[7] * kArenaUnit;
  program.logits = words[8];
  program.ids = words[9];
  check_between("weights", words[10], 0, kMaxWeights);
  check_between("states", words[11], 0, kMaxStates);

  const size_t buffer_words = static_cast<size_t>(words[2]) * kBufferWords;
  if (words.size() < kHeaderWords + buffer_words)
    wrong("size", "room for " + std::to_string(words[2]) + " buffers", static_cast<int64_t>(words.size()));
  program.states.assign(static_cast<size_t>(words[11]), StateShape{StateKind::kv, 0, 0});
  program.weights.assign(static_cast<size_t>(words[10]), Buffer{});
  program.gathered.assign(static_cast<size_t>(words[10]), false);
  std::vector<bool> weight_seen(static_cast<size_t>(words[10])), state_seen(static_cast<size_t>(words[11]));
  for (int i = 0; i < words[2]; ++i) {
    const Buffer buffer =
        parse_buffer(words.subspan(kHeaderWords + static_cast<size_t>(i) * kBufferWords, kBufferWords), i);
    check_storage(buffer, i, program, words[10], words[11]);
    const auto index = static_cast<size_t>(buffer.index);
    if (buffer.role == Role::weight) {
      Buffer& whole = program.weights[index];
      if (weight_seen[index] && !same_or_cut(whole, buffer))
        wrong("weight " + std::to_string(index), "one shape", "two");
      if (!weight_seen[index] || buffer.times > whole.times) whole = buffer;
      weight_seen[index] = true;
    }
    if (buffer.role == Role::state) {
      const StateShape shape{static_cast<StateKind>(buffer.detail), buffer.inner[0], buffer.inner[1]};
      if (state_seen[index]) wrong("state " + std::to_string(index), "one buffer", "two");
      program.states[index] = shape;
      state_seen[index] = true;
    }
    program.buffers.push_back(buffer);
  }
  size_t at = kHeaderWords + buffer_words;
  program.vocab = INT32_MAX;
  std::vector<bool> state_used(program.states.size());
  for (int i = 0; i < words[3]; ++i) {
    program.ops.push_back(parse_op(words.subspan(at), program, i));
    const OpRecord& op = program.ops.back();
    at += static_cast<size_t>(words[at + 1]);
    for (const int32_t number : op.operands) {
      if (number < 0 || program.buffers[static_cast<size_t>(number)].role != Role::state) continue;
      const auto index = static_cast<size_t>(program.buffers[static_cast<size_t>(number)].index);
      if (state_used[index]) wrong("state " + std::to_string(index), "one op that owns it", "two");
      state_used[index] = true;
    }
    if (op.opcode != Opcode::embedding) continue;
    const Buffer& table = program.buffers[static_cast<size_t>(op.operands[1])];
    program.gathered[static_cast<size_t>(table.index)] = true;
    program.vocab = std::min(program.vocab, table.times);
  }
  if (at != words.size()) wrong("size", std::to_string(at) + " words", static_cast<int64_t>(words.size()));
  const auto check_output = [&](const char* name, int32_t number, DType dtype, int32_t rank) {
    check_between(name, number, 0, static_cast<int64_t>(program.buffers.size()) - 1);
    const Buffer& buffer = program.buffers[static_cast<size_t>(number)];
    if (buffer.role != Role::scratch || buffer.dtype != dtype || buffer.rank != rank ||
        buffer.symbol != Symbol::rows || buffer.times != 1)
      wrong(name, "scratch with one row for each of `rows`", "another buffer");
  };
  check_output("logits", program.logits, DType::f32, 2);
  if (program.ids != -1) check_output("ids", program.ids, DType::i32, 1);
  return program;
}

}  // namespace crosscurrent
