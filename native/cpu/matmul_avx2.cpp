// matmul at the AVX2 + FMA + F16C level: the table of its kernels.
#include "simd/matmul_avx2.h"

namespace crosscurrent::cpu {

const MatmulKernels kMatmulAvx2 = {avx2::quantize_rows, avx2::int4,         avx2::int4_exact, avx2::int8,
                                   avx2::int8_exact,    avx2::stored_exact, avx2::stored_int8};

}  // namespace crosscurrent::cpu
