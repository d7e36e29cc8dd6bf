// Philox4x32-10: four random words from a counter and a key, the same on every device. Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <cstdint>

namespace crosscurrent {

struct Philox {
  uint32_t words[4];
};

constexpr Philox philox4x32(Philox counter, uint32_t key_low, uint32_t key_high) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter.words[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * counter.words[2];
    counter = {
        {static_cast<uint32_t>(second >> 32) ^ counter.words[1] ^ key_low, static_cast<uint32_t>(second),
         static_cast<uint32_t>(first >> 32) ^ counter.words[3] ^ key_high, static_cast<uint32_t>(first)}};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// In [0, 1): the number that chooses the token at `position` of a stream of this seed.
constexpr double philox_uniform(uint32_t seed_low, uint32_t seed_high, int32_t position) {
  return philox4x32({{static_cast<uint32_t>(position), 0, 0, 0}}, seed_low, seed_high).words[0] * 0x1p-32;
}

}  // namespace crosscurrent
