// act_mul, one row: y = act(gate) * up, or act(gate) where `up` is null. Compiled for each instruction-set
// level.
#pragma once

#include <stddef.h>

#include "simd/wide_math.h"

namespace crosscurrent::cpu {

struct ActMulKernels {
  using Row = void (*)(const float* gate, const float* up, float* y, int64_t count);
  Row none, silu, gelu, relu2;
};

extern const ActMulKernels kActMulV2;
extern const ActMulKernels kActMulAvx2;
extern const ActMulKernels kActMulAvx512Vnni;

namespace {

inline Wide identity(Wide g) { return g; }

inline Wide gelu(Wide g) {
  const Wide inner = 0.7978845608f * (g + 0.044715f * g * g * g);  // sqrt(2 / pi)
  return 0.5f * g * (1.0f + tanh_of(inner));
}

inline Wide relu2(Wide g) {
  const Wide positive = select_of<Wide>(g < Wide{}, Wide{}, g);  // NaN stays NaN
  return positive * positive;
}

template <Wide (*act)(Wide)>
void act_mul_row(const float* gate, const float* up, float* y, int64_t count) {
  int64_t i = 0;
  for (; i + kWideLanes <= count; i += kWideLanes) {
    const Wide value = act(load_wide(gate + i));
    store_wide(y + i, up != NULL ? value * load_wide(up + i) : value);
  }
  if (i == count) return;
  const int rest = static_cast<int>(count - i);
  const Wide value = act(load_wide_part(gate + i, rest, 0));
  store_wide_part(y + i, up != NULL ? value * load_wide_part(up + i, rest, 0) : value, rest);
}

constexpr ActMulKernels kActMulRows = {act_mul_row<identity>, act_mul_row<silu_of<Wide>>, act_mul_row<gelu>,
                                       act_mul_row<relu2>};

}  // namespace
}  // namespace crosscurrent::cpu
