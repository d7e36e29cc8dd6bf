// The AVX-512 kernels of exact products; the others of the level are in matmul_avx512vnni.cpp.
#pragma once

#include "../matmul_kernels.h"

namespace crosscurrent::cpu::avx512 {

void int4_exact(const PanelArgs* a);
void int8_exact(const PanelArgs* a);
void stored_exact(const StoredArgs* a);

}  // namespace crosscurrent::cpu::avx512
