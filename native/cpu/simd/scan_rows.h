// selective_scan on a tile of eight channels: h[n] = exp(Δ a[n]) h[n] + Δ x b[n], y = Σ_n c[n] h[n] + d x
//
// Up to eight tiles go through a few tokens together: rows of x, dt, z and y lie kilobytes apart, so a cache
// line of them should serve all its channels while it is there. One tile at a time through all tokens, one
// state after the other: 0.7 G updates/s at 1536 to 4096 channels x 16 on a busy Zen 3; this form: 1.6.
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

typedef uint32_t U32x8 __attribute__((vector_size(32)));

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
    const U32x8 vanishes = (U32x8)(shifted[i] < splat(12582912.0f - 125.0f));  // 0, not a denormal
    decay[i] = (F32x8)(~vanishes & ((U32x8)decay[i] + ((U32x8)shifted[i] << 23)));
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
  for (; n + 2 <= states; n += 2) sum = scan_states<2, kHasOutput>(n, a, from, to, delta, dx, b, c, sum);
  for (; n < states; ++n) sum = scan_states<1, kHasOutput>(n, a, from, to, delta, dx, b, c, sum);
  return sum;
}

// A few tokens, all channels of a call. softplus and silu take about as long as all states of a tile: in
// passes of their own many of them run side by side.
struct ScanPiece {
  static constexpr int kTokens = 8;
  const ScanRows& a;
  int64_t first;
  int count;
  F32x8 delta[kScanChannels / kLanes][kTokens], dx[kScanChannels / kLanes][kTokens];
  F32x8 sum[kScanChannels / kLanes][kTokens];  // Σ_n c[n] h[n]

  ScanPiece(const ScanRows& a, int64_t first)
      : a(a), first(first), count(a.count - first < kTokens ? static_cast<int>(a.count - first) : kTokens) {}

  // body(tile, its first channel, how many it has)
  template <class Body>
  void each_tile(Body body) {
    for (int channel = 0; channel < a.channels; channel += kLanes)
      body(channel / kLanes, channel, a.channels - channel < kLanes ? a.channels - channel : kLanes);
  }

  // Rows of the next tokens: they lie too far apart for the processor to foresee them.
  void prefetch() const {
    for (int64_t t = first + count; t < first + 2 * count && t < a.count; ++t) {
      for (int channel = 0; channel < a.channels; channel += 16) {
        __builtin_prefetch(a.x + t * a.x_stride + channel);
        __builtin_prefetch(a.dt + t * a.dt_stride + channel);
        if (a.z != nullptr) __builtin_prefetch(a.z + t * a.z_stride + channel);
        if (a.y != nullptr) __builtin_prefetch(a.y + t * a.y_stride + channel, 1);
      }
    }
  }

  void read() {
    each_tile([&](int tile, int channel, int lanes) {
      const F32x8 bias = load_up_to(a.dt_bias + channel, lanes);
      for (int i = 0; i < count; ++i) {
        const float* dt = a.dt + (first + i) * a.dt_stride + channel;
        delta[tile][i] = softplus8(load_up_to(dt, lanes) + bias);
        dx[tile][i] = delta[tile][i] * load_up_to(a.x + (first + i) * a.x_stride + channel, lanes);
      }
    });
  }

  template <bool kHasOutput>
  void advance() {
    each_tile([&](int tile, int channel, int) {
      float* to = a.to + channel * a.states;
      const float* from = first == 0 ? a.from + channel * a.states : to;
      for (int i = 0; i < count; ++i, from = to) {
        const float* c = kHasOutput ? a.c + (first + i) * a.c_stride : nullptr;
        sum[tile][i] = scan_tile<kHasOutput>(a.states, a.a + channel * a.states, from, to, delta[tile][i],
                                             dx[tile][i], a.b + (first + i) * a.b_stride, c);
      }
    });
  }

  void write() {
    each_tile([&](int tile, int channel, int lanes) {
      const F32x8 d = load_up_to(a.d + channel, lanes);
      for (int i = 0; i < count; ++i) {
        const int64_t t = first + i;
        F32x8 y = fma8(d, load_up_to(a.x + t * a.x_stride + channel, lanes), sum[tile][i]);
        if (a.z != nullptr) y = y * silu8(load_up_to(a.z + t * a.z_stride + channel, lanes));
        store_up_to(a.y + t * a.y_stride + channel, y, lanes);
      }
    });
  }
};

void scan_rows(const ScanRows* args) {
  const ScanRows& a = *args;
  for (int64_t first = 0; first < a.count; first += ScanPiece::kTokens) {
    ScanPiece piece(a, first);
    piece.read();
    piece.prefetch();
    if (a.y == nullptr) {
      piece.advance<false>();
    } else {
      piece.advance<true>();
      piece.write();
    }
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
