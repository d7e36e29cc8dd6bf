// selective_scan on a tile of eight channels: h[n] = exp(Δ a[n]) h[n] + Δ x b[n], y = Σ_n c[n] h[n] + d x
//
// Up to eight tiles go through a few tokens together: rows of x, dt, z and y lie kilobytes apart, so a cache
// line of them should serve all its channels while it is there (one tile at a time through all tokens: 0.7
// instead of 1.5 G updates/s at 4096 channels, Zen 3). Bound by exp: 14 of 20 instructions an update.
#pragma once

#include "../state_kernels.h"
#include "recurrence_math.h"

namespace crosscurrent::cpu {
namespace {

void scan_load(const float* rows, int64_t stride, int channels, int64_t states, float scale, float* tiles) {
  for (int first = 0; first < channels; first += kLanes, tiles += states * kLanes) {
    for (int64_t n = 0; n < states; n += kLanes) {
      const int width = states - n < kLanes ? static_cast<int>(states - n) : kLanes;
      F32x8 block[8];
      for (int i = 0; i < 8; ++i)
        block[i] = first + i < channels ? load_up_to(rows + (first + i) * stride + n, width) : F32x8{};
      transpose8(block);
      for (int j = 0; j < width; ++j) store8(tiles + (n + j) * kLanes, block[j] * splat(scale));
    }
  }
}

void scan_store(const float* tiles, int channels, int64_t states, float* rows) {
  for (int first = 0; first < channels; first += kLanes, tiles += states * kLanes) {
    for (int64_t n = 0; n < states; n += kLanes) {
      const int width = states - n < kLanes ? static_cast<int>(states - n) : kLanes;
      F32x8 block[8];
      for (int j = 0; j < 8; ++j) block[j] = j < width ? load8(tiles + (n + j) * kLanes) : F32x8{};
      transpose8(block);
      for (int i = 0; i < 8 && first + i < channels; ++i)
        store_up_to(rows + (first + i) * states + n, block[i], width);
    }
  }
}

// Δ and Δ x of a few tokens, all channels: a softplus takes as long as all states of a tile, so many run side
// by side
struct ScanInputs {
  static constexpr int kTokens = 8;
  F32x8 delta[kScanChannels / kLanes][kTokens], dx[kScanChannels / kLanes][kTokens];

  void prepare(const ScanRows& a, int64_t first, int count) {
    for (int channel = 0; channel < a.channels; channel += kLanes) {
      const int lanes = lanes_at(a, channel), tile = channel / kLanes;
      const F32x8 bias = load_up_to(a.dt_bias + channel, lanes);
      for (int i = 0; i < count; ++i) {
        const float* dt = a.dt + (first + i) * a.dt_stride + channel;
        delta[tile][i] = softplus8(load_up_to(dt, lanes) + bias);
        dx[tile][i] = delta[tile][i] * load_up_to(a.x + (first + i) * a.x_stride + channel, lanes);
      }
    }
  }
  static int lanes_at(const ScanRows& a, int channel) {
    return a.channels - channel < kLanes ? a.channels - channel : kLanes;
  }
};

// 2^f for |f| <= 1/2, highest power first: least relative error with the last coefficient 1, 9.2e-8
constexpr float kExp2[] = {0x1.5bb99ep-10f, 0x1.3ceafap-7f, 0x1.c6b756p-5f,
                           0x1.ebf9bap-3f,  0x1.62e42ap-1f, 1.0f};

// States [n, n + kStates) of a tile at one token; `a` comes times log2(e), so that the decay is 2^(Δ a).
// Stage by stage: one state after the other would fill the processor's window with a single chain of
// dependent instructions.
template <int kStates, bool kHasOutput>
inline F32x8 scan_states(int64_t n, const float* a, const float* from, float* to, F32x8 delta, F32x8 dx,
                         const float* b, const float* c, F32x8 sum) {
  const F32x8 shifter =
      splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
  F32x8 shifted[kStates], f[kStates], decay[kStates];
  for (int i = 0; i < kStates; ++i) {
    const F32x8 rate = load8(a + (n + i) * kLanes);
    shifted[i] = fma8(delta, rate, shifter);
    f[i] = fma8(delta, rate, shifter - shifted[i]);
    decay[i] = splat(kExp2[0]);
  }
  for (int power = 1; power < 6; ++power)
    for (int i = 0; i < kStates; ++i) decay[i] = fma8(decay[i], f[i], splat(kExp2[power]));
  for (int i = 0; i < kStates; ++i) {
    const I32x8 vanishes = (I32x8)(shifted[i] < splat(12582912.0f - 125.0f));  // 0, not a denormal
    decay[i] = from_bits(~vanishes & (bits_of(decay[i]) + (bits_of(shifted[i]) << 23)));
  }
  for (int i = 0; i < kStates; ++i) {
    const F32x8 h = fma8(decay[i], load8(from + (n + i) * kLanes), dx * splat(b[n + i]));
    store8(to + (n + i) * kLanes, h);
    if constexpr (kHasOutput) sum = fma8(splat(c[n + i]), h, sum);
  }
  return sum;
}

// One tile at one token. Returns Σ_n c[n] h[n].
template <bool kHasOutput>
inline F32x8 scan_tile(int64_t states, const float* a, const float* from, float* to, F32x8 delta, F32x8 dx,
                       const float* b, const float* c) {
  F32x8 sum = F32x8{};
  int64_t n = 0;
  for (; n + 4 <= states; n += 4) sum = scan_states<4, kHasOutput>(n, a, from, to, delta, dx, b, c, sum);
  for (; n < states; ++n) sum = scan_states<1, kHasOutput>(n, a, from, to, delta, dx, b, c, sum);
  return sum;
}

void scan_rows(const ScanRows* args) {
  const ScanRows& a = *args;
  ScanInputs inputs;
  for (int64_t first = 0; first < a.count; first += ScanInputs::kTokens) {
    const int count =
        a.count - first < ScanInputs::kTokens ? static_cast<int>(a.count - first) : ScanInputs::kTokens;
    inputs.prepare(a, first, count);
    for (int channel = 0; channel < a.channels; channel += kLanes) {
      const int lanes = ScanInputs::lanes_at(a, channel), tile = channel / kLanes;
      const float* decays = a.a + channel * a.states;
      float* to = a.to + channel * a.states;
      const float* from = first == 0 ? a.from + channel * a.states : to;
      for (int i = 0; i < count; ++i, from = to) {
        const int64_t t = first + i;
        const F32x8 delta = inputs.delta[tile][i], dx = inputs.dx[tile][i];
        const float* b = a.b + t * a.b_stride;
        if (a.y == nullptr) {
          scan_tile<false>(a.states, decays, from, to, delta, dx, b, nullptr);
          continue;
        }
        F32x8 y = scan_tile<true>(a.states, decays, from, to, delta, dx, b, a.c + t * a.c_stride);
        y = fma8(load_up_to(a.d + channel, lanes), load_up_to(a.x + t * a.x_stride + channel, lanes), y);
        if (a.z != nullptr) y = y * silu8(load_up_to(a.z + t * a.z_stride + channel, lanes));
        store_up_to(a.y + t * a.y_stride + channel, y, lanes);
      }
    }
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
