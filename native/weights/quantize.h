// f32 to GGUF blocks by round-to-nearest. What it writes, dequantize.h reads.
#pragma once

#include <cstddef>
#include <span>

#include "../dtype.h"

namespace crosscurrent {

// q8_0: d = max|x| / 127. q4_1: d = (max - min) / 15, m = min. Also f32, f16, bf16 by conversion.
// row.size() is a multiple of the block; `stored` has exactly the bytes of the row. Non-finite values are
// refused.
void quantize_row(DType dtype, std::span<const float> row, std::span<std::byte> stored);

}  // namespace crosscurrent
