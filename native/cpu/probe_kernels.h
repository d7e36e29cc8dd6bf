// What a core can do at most: loops of nothing but loads, or nothing but arithmetic. Compiled for each level.
#pragma once

#include "simd/vector.h"

namespace crosscurrent::cpu {

struct ProbeKernels {
  // A number made of all `count` floats, so that each is read; count is a multiple of 64.
  float (*read)(const float* from, int64_t count);
  // `rounds` of kProbeChains fused multiply-adds of 8 lanes each.
  float (*f32)(int64_t rounds);
  // The same of int8 products: 32 a chain. Null where a level has no such instruction.
  int32_t (*int8)(int64_t rounds);
};

constexpr int kProbeChains = 12;  // hides a latency of 4 to 6 at two a cycle

extern const ProbeKernels kProbeV2;
extern const ProbeKernels kProbeAvx2;

namespace {

// Adding as integers: cheaper than a load on every machine.
[[maybe_unused]] float read_all(const float* from, int64_t count) {
  I32x8 sum[8] = {};
  for (int64_t i = 0; i < count; i += 64)
    for (int j = 0; j < 8; ++j) sum[j] ^= reinterpret_cast<I32x8>(load8(from + i + 8 * j));
  I32x8 all{};
  for (int j = 0; j < 8; ++j) all ^= sum[j];
  return static_cast<float>(all[0] ^ all[1] ^ all[2] ^ all[3] ^ all[4] ^ all[5] ^ all[6] ^ all[7]);
}

[[maybe_unused]] float multiply_all(int64_t rounds) {
  F32x8 sum[kProbeChains];
  for (int j = 0; j < kProbeChains; ++j) sum[j] = splat(static_cast<float>(j));
  const F32x8 a = splat(0.999f), b = splat(0.001f);
  for (int64_t i = 0; i < rounds; ++i) {
    for (int j = 0; j < kProbeChains; ++j) sum[j] = fma8(sum[j], a, b);
  }
  F32x8 all{};
  for (int j = 0; j < kProbeChains; ++j) all += sum[j];
  return sum8(all);
}

}  // namespace
}  // namespace crosscurrent::cpu
