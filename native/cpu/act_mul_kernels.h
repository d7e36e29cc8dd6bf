// act_mul, one row: y = act(gate) * up, or act(gate) where `up` is null. Compiled for each instruction-set
// level.
#pragma once

#include <stddef.h>

#include "simd/vector.h"

namespace crosscurrent::cpu {

struct ActMulKernels {
  using Row = void (*)(const float* gate, const float* up, float* y, int64_t count);
  Row none, silu, gelu, relu2;
};

extern const ActMulKernels kActMulV2;
extern const ActMulKernels kActMulAvx2;

namespace {

inline F32x8 identity8(F32x8 g) { return g; }

inline F32x8 gelu8(F32x8 g) {
  const F32x8 inner = 0.7978845608f * (g + 0.044715f * g * g * g);  // sqrt(2 / pi)
  return 0.5f * g * (1.0f + tanh8(inner));
}

inline F32x8 relu2_8(F32x8 g) {
  const F32x8 positive = select(g < F32x8{}, F32x8{}, g);  // NaN stays NaN
  return positive * positive;
}

template <F32x8 (*act)(F32x8)>
void act_mul_row(const float* gate, const float* up, float* y, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F32x8 value = act(load8(gate + i));
    store8(y + i, up != NULL ? value * load8(up + i) : value);
  }
  if (i == count) return;
  const int rest = static_cast<int>(count - i);
  const F32x8 value = act(load_part(gate + i, rest, 0));
  store_part(y + i, up != NULL ? value * load_part(up + i, rest, 0) : value, rest);
}

constexpr ActMulKernels kActMulRows = {act_mul_row<identity8>, act_mul_row<silu8>, act_mul_row<gelu8>,
                                       act_mul_row<relu2_8>};

}  // namespace
}  // namespace crosscurrent::cpu
