// ssd on rows of one head's state: S[p, :] = decay S[p, :] + Δ x[p] b, y[p] = S[p, :]·c + d x[p]
//
// A register of states at a time, four rows together so that b and c are loaded once for them.
#pragma once

#include "../state_kernels.h"
#include "recurrence_math.h"

namespace crosscurrent::cpu {
namespace {

void ssd_gates(const SsdGates* args) {
  const SsdGates& a = *args;
  for (int64_t head = 0; head < a.heads; head += kWideLanes) {
    const int count = a.heads - head < kWideLanes ? static_cast<int>(a.heads - head) : kWideLanes;
    const Wide dt = softplus(load_up_to(a.dt + head, count) + load_up_to(a.dt_bias + head, count));
    const Wide delta = at_most(at_least(dt, a.dt_min), a.dt_max);
    store_up_to(a.delta + head, delta, count);
    store_up_to(a.decay + head, exp_of(delta * load_up_to(a.a + head, count)), count);
  }
}

// Rows [row, row + kRows) at one token. A row's sum has one order, whatever rows go with it.
template <int kRows>
inline void ssd_token(const SsdRows& a, const float* from, int64_t token, int64_t row) {
  const float* x = a.x + token * a.x_stride + row;
  const float* b = a.b + token * a.b_stride;
  const float* c = a.y != nullptr ? a.c + token * a.c_stride : b;
  const Wide decay = splat_wide(a.decay[token * a.delta_stride]);
  const float delta = a.delta[token * a.delta_stride];
  Wide dx[kRows], sum[4];
  for (int i = 0; i < kRows; ++i) dx[i] = splat_wide(delta * x[i]);
  for (int i = 0; i < 4; ++i) sum[i] = Wide{};

  int64_t n = 0;
  for (; n + kWideLanes <= a.states; n += kWideLanes) {
    const Wide bn = load_wide(b + n), cn = load_wide(c + n);
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.states + n;
      const Wide s = fma_wide(dx[i], bn, decay * load_wide(from + at));
      store_wide(a.to + at, s);
      sum[i] = fma_wide(s, cn, sum[i]);
    }
  }
  if (const int rest = static_cast<int>(a.states - n); rest > 0) {
    const Wide bn = load_wide_part(b + n, rest, 0), cn = load_wide_part(c + n, rest, 0);
    for (int i = 0; i < kRows; ++i) {
      const int64_t at = (row + i) * a.states + n;
      const Wide s = fma_wide(dx[i], bn, decay * load_wide_part(from + at, rest, 0));
      store_wide_part(a.to + at, s, rest);
      sum[i] = fma_wide(s, cn, sum[i]);
    }
  }
  if (a.y == nullptr) return;
  float sums[4];
  sum4(sum, sums);
  float* y = a.y + token * a.y_stride + row;
  for (int i = 0; i < kRows; ++i) y[i] = sums[i] + a.d * x[i];
}

// Rows of x and y lie kilobytes apart, beyond what the processor foresees.
inline void prefetch_token(const SsdRows& a, int64_t token) {
  if (token >= a.count) return;
  for (int64_t row = 0; row < a.rows; row += 16) {
    __builtin_prefetch(a.x + token * a.x_stride + row);
    if (a.y != nullptr) __builtin_prefetch(a.y + token * a.y_stride + row, 1);
  }
}

void ssd_rows(const SsdRows* args) {
  const SsdRows a = *args;  // a copy: stores of state cannot change it
  const float* from = a.from;
  constexpr int64_t kAhead = 4;
  for (int64_t token = 0; token < kAhead; ++token) prefetch_token(a, token);
  for (int64_t token = 0; token < a.count; ++token) {
    prefetch_token(a, token + kAhead);
    int64_t row = 0;
    for (; row + 4 <= a.rows; row += 4) ssd_token<4>(a, from, token, row);
    for (; row < a.rows; ++row) ssd_token<1>(a, from, token, row);
    from = a.to;
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
