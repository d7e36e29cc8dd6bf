// selective_scan on a tile of eight channels: h[n] = exp(Δ a[n]) h[n] + Δ x b[n], y = Σ_n c[n] h[n] + d x
//
// The tile stays in L1 through all tokens of a call. Bound by exp: 14 of 20 instructions an update.
#pragma once

#include "../state_kernels.h"
#include "recurrence_math.h"

namespace crosscurrent::cpu {
namespace {

static_assert(kScanChannels == kLanes);

void scan_load(const float* rows, int64_t stride, int lanes, int64_t states, float* tile) {
  for (int64_t n = 0; n < states; n += kLanes) {
    const int width = states - n < kLanes ? static_cast<int>(states - n) : kLanes;
    F32x8 block[8];
    for (int i = 0; i < 8; ++i) block[i] = i < lanes ? load_up_to(rows + i * stride + n, width) : F32x8{};
    transpose8(block);
    for (int j = 0; j < width; ++j) store8(tile + (n + j) * kLanes, block[j]);
  }
}

void scan_store(const float* tile, int lanes, int64_t states, float* rows) {
  for (int64_t n = 0; n < states; n += kLanes) {
    const int width = states - n < kLanes ? static_cast<int>(states - n) : kLanes;
    F32x8 block[8];
    for (int j = 0; j < 8; ++j) block[j] = j < width ? load8(tile + (n + j) * kLanes) : F32x8{};
    transpose8(block);
    for (int i = 0; i < lanes; ++i) store_up_to(rows + i * states + n, block[i], width);
  }
}

// softplus takes longer than a token's states, so it is done for a few tokens ahead
struct ScanDelta {
  static constexpr int kTokens = 16;
  F32x8 delta[kTokens], dx[kTokens], x[kTokens];

  void prepare(const ScanRows& a, int64_t first, int count) {
    const F32x8 bias = load8(a.dt_bias);
    for (int i = 0; i < count; ++i) {
      x[i] = load_up_to(a.x + (first + i) * a.x_stride, a.lanes);
      delta[i] = softplus8(load_up_to(a.dt + (first + i) * a.dt_stride, a.lanes) + bias);
      dx[i] = delta[i] * x[i];
    }
  }
};

// Returns Σ_n c[n] h[n], or nothing of use where c is null.
template <bool kHasOutput>
inline F32x8 scan_token(const ScanRows& a, const float* from, F32x8 delta, F32x8 dx, const float* b,
                        const float* c) {
  F32x8 sum = F32x8{};
  for (int64_t n = 0; n < a.states; ++n) {
    const F32x8 decay = quick_exp8(delta * load8(a.a + n * kLanes));
    const F32x8 h = fma8(decay, load8(from + n * kLanes), dx * splat(b[n]));
    store8(a.to + n * kLanes, h);
    if constexpr (kHasOutput) sum = fma8(splat(c[n]), h, sum);
  }
  return sum;
}

void scan_rows(const ScanRows* args) {
  const ScanRows& a = *args;
  const F32x8 d = load8(a.d);
  const float* from = a.from;
  ScanDelta ahead;
  for (int64_t first = 0; first < a.count; first += ScanDelta::kTokens) {
    const int count =
        a.count - first < ScanDelta::kTokens ? static_cast<int>(a.count - first) : ScanDelta::kTokens;
    ahead.prepare(a, first, count);
    for (int i = 0; i < count; ++i) {
      const int64_t t = first + i;
      const float* b = a.b + t * a.b_stride;
      if (a.y == nullptr) {
        scan_token<false>(a, from, ahead.delta[i], ahead.dx[i], b, nullptr);
      } else {
        F32x8 y = scan_token<true>(a, from, ahead.delta[i], ahead.dx[i], b, a.c + t * a.c_stride);
        y = fma8(d, ahead.x[i], y);
        if (a.z != nullptr) y = y * silu8(load_up_to(a.z + t * a.z_stride, a.lanes));
        store_up_to(a.y + t * a.y_stride, y, a.lanes);
      }
      from = a.to;
    }
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
