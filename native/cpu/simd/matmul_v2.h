// The portable matmul kernels; other levels take those that they have not of their own.
#pragma once

#include "../matmul_kernels.h"

namespace crosscurrent::cpu::v2 {

void quantize_rows(const float* x, int64_t x_stride, int64_t m, const RowQuantView* rows);
void int4(const PanelArgs* a);
void int8(const PanelArgs* a);
void int4_exact(const PanelArgs* a);
void int8_exact(const PanelArgs* a);
void stored_exact(const StoredArgs* a);
void stored_int8(const StoredArgs* a);

}  // namespace crosscurrent::cpu::v2
