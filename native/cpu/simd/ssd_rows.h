// ssd on rows of one head's state: S[p, :] = decay S[p, :] + Δ x[p] b, y[p] = S[p, :]·c + d x[p]
//
// Eight states at a time, four rows together so that b and c are loaded once for them.
#pragma once

#include "../state_kernels.h"
#include "recurrence_math.h"

namespace crosscurrent::cpu {
namespace {

void ssd_gates(const SsdGates* args) {
  const SsdGates& a = *args;
  for (int64_t head = 0; head < a.heads; head += kLanes) {
    const int count = a.heads - head < kLanes ? static_cast<int>(a.heads - head) : kLanes;
    const F32x8 dt = softplus8(load_up_to(a.dt + head, count) + load_up_to(a.dt_bias + head, count));
    const F32x8 delta = at_most(at_least(dt, a.dt_min), a.dt_max);
    store_up_to(a.delta + head, delta, count);
    store_up_to(a.decay + head, exp8(delta * load_up_to(a.a + head, count)), count);
  }
}

// Rows [row, row + kRows) at one token. A row's sum has one order, whatever rows go with it.
template <int kRows>
inline void ssd_token(const SsdRows& a, const float* from, int64_t token, int64_t row) {
  const float* x = a.x + token * a.x_stride + row;
  const float* b = a.b + token * a.b_stride;
  const float* c = a.y != nullptr ? a.c + token * a.c_stride : b;
  const F32x8 decay = splat(a.decay[token * a.delta_stride]);
  const float delta = a.delta[token * a.delta_stride];
  F32x8 dx[kRows], sum[4];
  for (int i = 0; i < kRows; ++i) dx[i] = splat(delta * x[i]);
  for (int i = 0; i < 4; ++i) sum[i] = F32x8{};

  int64_t n = 0;
  for (; n + kLanes <= a.states; n += kLanes) {
    const F32x8 bn = load8(b + n), cn = load8(c + n);
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.states + n;
      const F32x8 s = fma8(dx[i], bn, decay * load8(from + at));
      store8(a.to + at, s);
      sum[i] = fma8(s, cn, sum[i]);
    }
  }
  if (const int rest = static_cast<int>(a.states - n); rest > 0) {
    const F32x8 bn = load_part(b + n, rest, 0), cn = load_part(c + n, rest, 0);
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.states + n;
      const F32x8 s = fma8(dx[i], bn, decay * load_part(from + at, rest, 0));
      store_part(a.to + at, s, rest);
      sum[i] = fma8(s, cn, sum[i]);
    }
  }
  if (a.y == nullptr) return;
  float sums[4];
  sum4(sum, sums);
  float* y = a.y + token * a.y_stride + row;
  for (int i = 0; i < kRows; ++i) y[i] = sums[i] + a.d * x[i];
}

void ssd_rows(const SsdRows* args) {
  const SsdRows& a = *args;
  const float* from = a.from;
  for (int64_t token = 0; token < a.count; ++token) {
    int64_t row = 0;
    for (; row + 4 <= a.rows; row += 4) ssd_token<4>(a, from, token, row);
    for (; row < a.rows; ++row) ssd_token<1>(a, from, token, row);
    from = a.to;
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
