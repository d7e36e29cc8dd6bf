// Rows of activations as int8 with one scale per 32 values, laid out in scratch memory for the matmul
// kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "matmul_kernels.h"

namespace crosscurrent::cpu {

// k is a multiple of 32.
size_t row_quant_bytes(int64_t m, int64_t k);

// Arrays of `m` rows in `memory` (aligned to 64).
RowQuantView row_quant_view(std::byte* memory, int64_t m, int64_t k);

// The same arrays from row `row` on.
RowQuantView row_quant_from(const RowQuantView& rows, int64_t row);

}  // namespace crosscurrent::cpu
