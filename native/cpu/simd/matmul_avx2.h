// The AVX2 matmul kernels, one file a kind; `kMatmulAvx2` gathers them.
#pragma once

#include "../matmul_kernels.h"

namespace crosscurrent::cpu::avx2 {

void quantize_rows(const float* x, int64_t x_stride, int64_t m, const RowQuantView* rows);
void int4(const PanelArgs* a);
void int8(const PanelArgs* a);
void int4_exact(const PanelArgs* a);
void int8_exact(const PanelArgs* a);
void stored_exact(const StoredArgs* a);
void stored_int8(const StoredArgs* a);

// For wider levels, which multiply what these expand (see exact_tiles.h): the function for the panel's
// format, and for the type.
ExpandPanel int4_expander(const PanelArgs* a);
ExpandPanel int8_expander(const PanelArgs* a);
ExpandStored stored_expander(StoredType type);

}  // namespace crosscurrent::cpu::avx2
