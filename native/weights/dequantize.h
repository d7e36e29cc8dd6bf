// Weights in f32, one value after the other as the formulas say: the oracle of the fast kernels, and the way
// of tools.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "../dtype.h"

namespace crosscurrent {

float f32_from_f16(uint16_t bits);
float f32_from_bf16(uint16_t bits);

// Round to nearest, ties to even; values too large become infinity, NaN stays NaN.
uint16_t f16_from_f32(float value);
uint16_t bf16_from_f32(float value);

// True for dtypes that hold weights: floats and GGUF blocks. Plain integers are codes of other formats.
constexpr bool is_weight_dtype(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f64 ||
         dtype_info(dtype).block_elements > 1;
}

// One row, or several that lie side by side: row.size() elements, a multiple of the block. `stored` holds
// exactly their bytes and may be unaligned.
void dequantize_row(DType dtype, std::span<const std::byte> stored, std::span<float> row);

}  // namespace crosscurrent
