#include <immintrin.h>

#include "probe_kernels.h"

namespace crosscurrent::cpu {
namespace {

// As the int8 kernels do it: products in pairs to int16, pairs of them to int32, a sum.
int32_t multiply_int8(int64_t rounds) {
  __m256i sum[kProbeChains];
  for (int j = 0; j < kProbeChains; ++j) sum[j] = _mm256_set1_epi32(j);
  const __m256i ones = _mm256_set1_epi16(1), b = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i)
    for (int j = 0; j < kProbeChains; ++j)
      sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(_mm256_maddubs_epi16(sum[j], b), ones));
  __m256i all = _mm256_setzero_si256();
  for (int j = 0; j < kProbeChains; ++j) all = _mm256_add_epi32(all, sum[j]);
  return _mm256_extract_epi32(all, 0);
}

}  // namespace

const ProbeKernels kProbeAvx2 = {read_all, multiply_all, multiply_int8};

}  // namespace crosscurrent::cpu
