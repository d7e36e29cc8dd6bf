// A program as native code holds it: buffers, then op records. Made from untrusted words, checked once.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "op_info.h"
#include "ops.gen.h"
#include "step.h"
#include "tensor.h"

namespace crosscurrent {

enum class Role : int32_t { weight = 0, input = 1, state = 2, scratch = 3 };
enum class Symbol : int32_t { constant = 0, t = 1, seqs = 2, rows = 3 };
enum class StepInput : int32_t { ids = 0, position = 1, rows = 2 };
enum class WeightForm : int32_t { f32 = 0, matrix = 1 };

struct Bounds {
  int32_t t, seqs, rows;
};

struct Buffer {
  Role role;
  DType dtype;
  int32_t rank;
  Symbol symbol;       // of the first axis
  int32_t times;       // first axis = times * symbol
  int32_t inner[3];    // the other axes
  int64_t row_stride;  // elements
  int32_t index;   // weight, input or state number; for scratch the place in the arena in units of 64 bytes
  int32_t offset;  // elements
  int32_t detail;  // StateKind or WeightForm

  bool operator==(const Buffer&) const = default;
  int64_t lead(const Bounds& sizes) const {
    switch (symbol) {
      case Symbol::t: return int64_t{times} * sizes.t;
      case Symbol::seqs: return int64_t{times} * sizes.seqs;
      case Symbol::rows: return int64_t{times} * sizes.rows;
      default: return times;
    }
  }
};

struct OpRecord {
  Opcode opcode;
  std::vector<int32_t> operands;  // buffer numbers, -1 for an absent one; inputs then outputs
  std::vector<int32_t> attrs;     // words
};

struct StateShape {
  StateKind kind;
  int32_t elements, pending_elements;
};

struct Program {
  Bounds bounds;
  int64_t arena_bytes;
  int32_t logits;  // buffer numbers; ids is -1 where nothing is sampled
  int32_t ids;
  std::vector<Buffer> buffers;
  std::vector<OpRecord> ops;
  std::vector<Buffer> weights;  // shape of each weight: of the use that has most rows of it
  std::vector<bool> gathered;   // whether `embedding` reads rows of it
  std::vector<StateShape> states;
  int32_t vocab;

  // Throws invalid_program, naming the word or the op and what is wrong with it.
  static Program parse(std::span<const int32_t> words);
};

}  // namespace crosscurrent
