// Ops on memory of the caller, at random: every call that passes check_op runs inside its operands, which lie
// in blocks of exactly their size; the others throw Error. For the sanitizers.
#include "native/cpu/run_op.h"

#include <algorithm>
#include <bit>
#include <memory>

#include "harness.h"
#include "native/cpu/pack_values.h"
#include "native/error.h"
#include "op_buffers.h"

namespace crosscurrent::test {
namespace {

constexpr int kCalls = 24000;

// Blocks of exactly the size asked for.
class Memory {
 public:
  cpu::OpOperand floats(int64_t count, Numbers& numbers) {
    cpu::OpOperand operand = block(count, DType::f32);
    for (int64_t i = 0; i < count; ++i) reinterpret_cast<float*>(operand.data)[i] = numbers.next();
    return operand;
  }
  cpu::OpOperand integers(int64_t count, int32_t end, Numbers& numbers) {
    cpu::OpOperand operand = block(count, DType::i32);
    for (int64_t i = 0; i < count; ++i) reinterpret_cast<int32_t*>(operand.data)[i] = numbers.below(end);
    return operand;
  }
  cpu::OpOperand halves(int64_t count, DType dtype, Numbers& numbers) {
    cpu::OpOperand operand = block((count + 1) / 2, dtype);
    operand.elements = count;
    for (int64_t i = 0; i < count / 2 * 2; ++i)
      reinterpret_cast<uint16_t*>(operand.data)[i] = static_cast<uint16_t>(0x3000 + numbers.below(0x400));
    return operand;
  }

 private:
  cpu::OpOperand block(int64_t words, DType dtype) {
    blocks_.push_back(std::make_unique<float[]>(static_cast<size_t>(std::max<int64_t>(words, 1))));
    cpu::OpOperand operand;
    operand.data = reinterpret_cast<std::byte*>(blocks_.back().get());
    operand.elements = words;
    operand.dtype = dtype;
    return operand;
  }
  std::vector<std::unique_ptr<float[]>> blocks_;
};

int64_t side(Numbers& numbers) {
  constexpr int64_t kSides[] = {1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33};
  return kSides[numbers.below(std::size(kSides))];
}

int64_t elements_of(const OperandInfo& operand, const std::vector<int64_t>& axes) {
  int64_t elements = 1;
  for (int i = 0; i < operand.rank; ++i)
    for (const int8_t axis : {operand.axes[i].left, operand.axes[i].right})
      elements *= axis == kNoAxis ? 1 : axis == kTwo ? 2 : axes[static_cast<size_t>(axis)];
  return elements;
}

std::shared_ptr<const cpu::PackedMatrix> packed(const cpu::GroupShape& shape, Numbers& numbers) {
  std::vector<float> values(static_cast<size_t>(shape.experts * shape.n * shape.k));
  for (float& value : values) value = numbers.next();
  const std::atomic<bool> cancel{false};
  return std::make_shared<const cpu::PackedMatrix>(
      cpu::quantize_groups("test", shape, values, shape.bits == 8 || numbers.below(2) == 0, cancel));
}

cpu::OpOperand matrix(const OperandInfo& info, const std::vector<int64_t>& axes, Memory& memory,
                      Numbers& numbers) {
  const auto dim = [&](int i) { return axes[static_cast<size_t>(info.axes[i].left)]; };
  const int64_t k = dim(info.rank - 1);
  const int kind = numbers.below(4);
  if (kind == 0 && k % 32 == 0) {
    cpu::OpOperand operand;
    operand.packed =
        packed({info.rank == 3 ? dim(0) : 1, dim(info.rank - 2), k, 32, numbers.below(2) ? 4 : 8}, numbers);
    return operand;
  }
  const int64_t elements = elements_of(info, axes);
  if (kind == 1) return memory.halves(elements, numbers.below(2) ? DType::f16 : DType::bf16, numbers);
  return memory.floats(elements, numbers);
}

// Ranges of some sequences over `total` rows.
std::vector<int32_t> ranges(int64_t total, Numbers& numbers) {
  std::vector<int32_t> first = {0};
  while (first.back() < total)
    first.push_back(static_cast<int32_t>(std::min(total, first.back() + 1 + int64_t{numbers.below(9)})));
  return first;
}

int64_t state_elements(Opcode opcode, const OpInfo& info, const std::vector<int64_t>& axes) {
  if (opcode == Opcode::causal_conv1d)
    return elements_of(info.operands[1], axes) - elements_of(info.operands[2], axes);
  if (opcode == Opcode::selective_scan) return elements_of(info.operands[3], axes);
  const int64_t t = elements_of(info.operands[1], axes) / elements_of(info.operands[2], axes);
  return elements_of(info.operands[0], axes) / t * (elements_of(info.operands[4], axes) / t / axes[1]);
}

// A call that is right but for what `mutate` does to it.
cpu::OpCall build(Memory& memory, Numbers& numbers) {
  cpu::OpCall call;
  do call.opcode = static_cast<Opcode>(numbers.below(std::size(kOps)));
  while (call.opcode == Opcode::sample);
  const OpInfo& info = kOps[static_cast<size_t>(call.opcode)];
  for (int32_t i = 0; i < info.axes; ++i) call.axes.push_back(side(numbers));
  for (size_t i = 0; i < info.attrs.size(); ++i) {
    const AttrInfo& attr = info.attrs[i];
    call.attrs.push_back(attr.kind == AttrKind::f32           ? std::bit_cast<int32_t>(numbers.next() + 1.5f)
                         : attr.kind == AttrKind::boolean     ? numbers.below(2)
                         : attr.kind == AttrKind::enumeration ? numbers.below(attr.values)
                                                              : static_cast<int32_t>(call.axes[i]));
  }
  if (call.opcode == Opcode::flash_attention) {
    call.axes[5] *= call.axes[6];  // heads, kv_heads
    call.attrs[2] = numbers.below(6);
  }
  if (call.opcode == Opcode::ssd) call.axes[5] *= call.axes[1];  // heads, groups
  const int64_t largest = *std::ranges::max_element(call.axes);
  for (const OperandInfo& operand : info.operands) {
    if (operand.optional && numbers.below(2) == 0)
      call.operands.emplace_back();
    else if (operand.kind == OperandKind::f32)
      call.operands.push_back(memory.floats(elements_of(operand, call.axes), numbers));
    else if (operand.kind == OperandKind::i32)
      call.operands.push_back(memory.integers(elements_of(operand, call.axes),
                                              static_cast<int32_t>(std::min<int64_t>(largest, 3)), numbers));
    else if (operand.kind == OperandKind::matrix)
      call.operands.push_back(matrix(operand, call.axes, memory, numbers));
    else
      call.operands.emplace_back();
    if (operand.kind != OperandKind::conv && operand.kind != OperandKind::scan) continue;
    const int64_t t = elements_of(info.operands[0], call.axes) / elements_of(info.operands[1], call.axes);
    const bool has_t = call.opcode != Opcode::causal_conv1d && t > 0;
    if (has_t && numbers.below(2))
      call.first = ranges(call.axes[call.opcode == Opcode::ssd ? 4 : 0], numbers);
    const auto seqs = static_cast<int64_t>(std::max<size_t>(call.first.size(), 2)) - 1;
    const int64_t elements = seqs * state_elements(call.opcode, info, call.axes);
    if (numbers.below(2)) call.operands.back() = memory.floats(elements, numbers);
    call.final_state = memory.floats(elements, numbers);
  }
  if (call.opcode == Opcode::flash_attention) {
    call.is_causal = call.attrs[2] > 0 || numbers.below(2);
    if (numbers.below(2)) call.first = call.first_key = ranges(call.axes[4], numbers);
  }
  call.exact = numbers.below(2);
  call.threads = 1 + numbers.below(2);
  const auto isas = cpu::available_isas();
  call.isa = isas[static_cast<size_t>(numbers.below(static_cast<int32_t>(isas.size())))];
  return call;
}

void mutate(cpu::OpCall& call, Memory& memory, Numbers& numbers) {
  const auto any = [&](auto& list) -> auto& {
    return list[static_cast<size_t>(numbers.below(static_cast<int32_t>(std::size(list))))];
  };
  constexpr int64_t kOdd[] = {0, 1, 2, 3, -1, 64, INT32_MAX, int64_t{1} << 31, int64_t{1} << 50};
  switch (numbers.below(8)) {
    case 0: any(call.axes) = any(kOdd); break;
    case 1:
      if (!call.attrs.empty()) any(call.attrs) = static_cast<int32_t>(any(kOdd));
      break;
    case 2: any(call.operands) = {}; break;
    case 3: any(call.operands) = memory.floats(side(numbers), numbers); break;
    case 4: any(call.operands) = memory.integers(side(numbers), INT32_MAX, numbers); break;
    case 5: call.first = ranges(side(numbers), numbers); break;
    case 6: call.first_key = ranges(side(numbers), numbers); break;
    default: call.final_state = memory.floats(side(numbers), numbers); break;
  }
}

const Test random_calls("run_op: 24,000 calls at random stay inside their operands, or throw", [] {
  Numbers numbers(20261125);
  int ran = 0, refused = 0;
  for (int i = 0; i < kCalls; ++i) {
    Memory memory;
    cpu::OpCall call = build(memory, numbers);
    if (numbers.below(2)) mutate(call, memory, numbers);
    try {
      cpu::check_op(call);
      cpu::run_op(call);
      ++ran;
    } catch (const Error& error) {
      expect(error.code() != Code::internal, std::string("call ") + std::to_string(i) + ": " + error.what());
      ++refused;
    }
  }
  expect(ran > kCalls / 4, "too few calls were right: " + std::to_string(ran));
  expect(refused > kCalls / 10, "too few calls were wrong: " + std::to_string(refused));
});

}  // namespace
}  // namespace crosscurrent::test
