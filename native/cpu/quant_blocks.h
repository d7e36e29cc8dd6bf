// GGUF blocks taken apart: integers, scales and mins of one row. value = scale[i / group] q[i] + min[i /
// group]
#pragma once

#include <cstddef>
#include <cstdint>

#include "../dtype.h"

namespace crosscurrent::cpu {

struct QuantTraits {
  int group = 0;  // elements a scale; 0: not a block type
  bool has_min = false;
  bool is_int4 = false;  // integers are 0…15 (q4_0: 8 is zero); else they fit int8 with zero at 0
  bool wide_scales =
      false;  // scales are products of two numbers of the file: f32 holds them exactly, f16 does not
};

QuantTraits quant_traits(DType dtype);

// Scales and mins as f32 (exact). `min` is untouched where the type has none. q4_0 gives q in 0…15 and value
// = scale (q - 8).
void split_row(DType dtype, const std::byte* row, int64_t k, int8_t* q, float* scale, float* min);

float f16_to_f32(uint16_t bits);
uint16_t f32_to_f16_exact(float value);  // of a value that is representable

// out[k] = the row in f32; any weight dtype.
void expand_row(DType dtype, const std::byte* row, int64_t k, float* out);

}  // namespace crosscurrent::cpu
