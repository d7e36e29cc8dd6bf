// One op over memory of the caller: no program, no session, no copies of operands. What
// `crosscurrent/kernels` calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../ops.gen.h"
#include "isa.h"
#include "kv_cache.h"
#include "pack.h"

namespace crosscurrent::cpu {

// Absent where it has no data and nothing packed.
struct OpOperand {
  std::byte* data = nullptr;
  int64_t elements = 0;
  DType dtype = DType::f32;
  std::shared_ptr<const PackedMatrix> packed;

  explicit operator bool() const { return data != nullptr || packed != nullptr; }
};

struct OpCall {
  Opcode opcode{};
  std::vector<int64_t> axes;        // by number, attributes first (op_info.h)
  std::vector<int32_t> attrs;       // words
  std::vector<OpOperand> operands;  // as declared; that of a state is where it starts, absent for zeros
  OpOperand final_state;            // where a conv or scan state ends; may be where it starts
  std::vector<int32_t> first;       // [seqs + 1] ranges of the sequences over the axis t; empty: one sequence
  std::vector<int32_t> first_key;   // [seqs + 1] flash_attention: ranges over the rows of k and v
  std::shared_ptr<KvCache> cache;   // flash_attention: the keys and values, instead of k and v
  bool is_causal = true;            // flash_attention
  DType kv = DType::f32;            // flash_attention: what k and v are rounded to
  std::vector<int32_t> sampling;    // sample, top_probabilities: words of a step with `rows` rows
  bool exact = false;               // linear, moe
  int32_t threads = 0;              // 0: the pool's
  std::optional<Isa> isa;
};

// The name that JavaScript knows: dt_bias is dtBias.
std::string camel_case(std::string_view name);

// Everything that does not need to look at data. Throws invalid_argument, naming the operand.
void check_op(const OpCall& call);

// Of a call that was checked. Throws what the kernel throws, out_of_memory where its working memory is
// refused.
void run_op(const OpCall& call);

// flash_attention alone (run_attention.cpp).
void check_attention(const OpCall& call);
void run_attention(const OpCall& call);

// For both: the operand as its kernel sees it, and the ranges of the call.
Tensor tensor_of(const OpCall& call, size_t operand);
std::vector<int32_t> ranges_of(const std::vector<int32_t>& first, int64_t total);

}  // namespace crosscurrent::cpu
