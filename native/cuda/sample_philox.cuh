// native/philox.h on the device: its functions are constexpr, which kernels may only call with constants. The
// driver compares the two.
#pragma once

#include <cstdint>

namespace crosscurrent::cuda {

__device__ __forceinline__ uint32_t philox_word(uint32_t key_low, uint32_t key_high, int32_t position) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = 0, c2 = 0, c3 = 0;
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * c0, second = uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ key_low;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ key_high;
    c3 = static_cast<uint32_t>(first);
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return c0;
}

}  // namespace crosscurrent::cuda
