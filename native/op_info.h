// What the op declarations say, for checking programs. Filled in by ops.gen.h.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace crosscurrent {

enum class OperandKind : int8_t { f32, i32, matrix, kv, conv, scan };

constexpr bool is_state(OperandKind kind) { return kind >= OperandKind::kv; }

// A product of at most two factors; each is the number of an axis of the op, kNoAxis, or kTwo.
struct AxisProduct {
  int8_t left, right;
};
inline constexpr int8_t kNoAxis = -1;
inline constexpr int8_t kTwo = -2;

struct OperandInfo {
  std::string_view name;
  OperandKind kind;
  bool optional;
  bool is_output;
  int8_t rank;
  AxisProduct axes[4];
};

enum class AttrKind : int8_t { f32, i32, boolean, enumeration };

struct AttrInfo {
  std::string_view name;
  AttrKind kind;
  int32_t values;  // of an enumeration
};

// Axes are numbered with the attributes first: an attribute that an operand's shape names is an axis.
struct OpInfo {
  std::string_view name;
  std::span<const OperandInfo> operands;
  std::span<const AttrInfo> attrs;
  int32_t axes;
};

}  // namespace crosscurrent
