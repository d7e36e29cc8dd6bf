// selective_scan on a tile of a register of channels: h[n] = exp(Δ a[n]) h[n] + Δ x b[n], y = Σ_n c[n] h[n] +
// d x
//
// All tiles of a call go through a few tokens together: rows of x, dt, z and y lie kilobytes apart, so a
// cache line of them should serve all its channels while it is there. One tile at a time through all tokens,
// one state after the other: 0.7 G updates/s at 1536 to 4096 channels x 16 on a busy Zen 3; this form: 1.6.
#pragma once

#include "../state_kernels.h"
#include "recurrence_math.h"

namespace crosscurrent::cpu {
namespace {

// Eight by eight, whatever the width of a tile.
void scan_load(const float* rows, int64_t stride, int channels, int64_t states, float scale, float* tiles) {
  for (int first = 0; first < channels; first += kWideLanes, tiles += states * kWideLanes) {
    for (int half = 0; half < kWideLanes; half += kLanes) {
      for (int64_t n = 0; n < states; n += kLanes) {
        const int width = states - n < kLanes ? static_cast<int>(states - n) : kLanes;
        F32x8 block[8];
        for (int i = 0; i < 8; ++i) {
          const int channel = first + half + i;
          const float* from = rows + channel * stride + n;
          block[i] = channel >= channels ? F32x8{}
                     : width == kLanes   ? load8(from)
                                         : load_part(from, width, 0);
        }
        transpose8(block);
        for (int j = 0; j < width; ++j) store8(tiles + (n + j) * kWideLanes + half, block[j] * splat(scale));
      }
    }
  }
}

void scan_store(const float* tiles, int channels, int64_t states, float* rows) {
  for (int first = 0; first < channels; first += kWideLanes, tiles += states * kWideLanes) {
    for (int half = 0; half < kWideLanes; half += kLanes) {
      for (int64_t n = 0; n < states; n += kLanes) {
        const int width = states - n < kLanes ? static_cast<int>(states - n) : kLanes;
        F32x8 block[8];
        for (int j = 0; j < 8; ++j)
          block[j] = j < width ? load8(tiles + (n + j) * kWideLanes + half) : F32x8{};
        transpose8(block);
        for (int i = 0; i < 8 && first + half + i < channels; ++i) {
          float* to = rows + (first + half + i) * states + n;
          if (width == kLanes)
            store8(to, block[i]);
          else
            store_part(to, block[i], width);
        }
      }
    }
  }
}

// 2^f for |f| <= 1/2, highest power first: least relative error with the last coefficient 1, 9.2e-8
constexpr float kExp2[] = {0x1.5bb99ep-10f, 0x1.3ceafap-7f, 0x1.c6b756p-5f,
                           0x1.ebf9bap-3f,  0x1.62e42ap-1f, 1.0f};

// States [n, n + kStates) of a tile at one token; `a` comes times log2(e), so that the decay is 2^(Δ a).
// Stage by stage: one state after the other would fill the processor's window with a single chain of
// dependent instructions.
template <int kStates, bool kHasOutput>
inline Wide scan_states(int64_t n, const float* a, const float* from, float* to, Wide delta, Wide dx,
                        const float* b, const float* c, Wide sum) {
  const Wide shifter =
      splat_wide(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
  Wide shifted[kStates], f[kStates], decay[kStates];
  for (int i = 0; i < kStates; ++i) {
    const Wide rate = load_wide(a + (n + i) * kWideLanes);
    shifted[i] = fma_wide(delta, rate, shifter);
    f[i] = fma_wide(delta, rate, shifter - shifted[i]);
    decay[i] = splat_wide(kExp2[0]);
  }
  for (int power = 1; power < 6; ++power)
    for (int i = 0; i < kStates; ++i) decay[i] = fma_wide(decay[i], f[i], splat_wide(kExp2[power]));
  for (int i = 0; i < kStates; ++i) {
    const WideInt vanishes = shifted[i] < splat_wide(12582912.0f - 125.0f);  // 0, not a denormal
    const WideUint scaled = (WideUint)decay[i] + ((WideUint)shifted[i] << 23);
    decay[i] = (Wide)(~vanishes & (WideInt)scaled);
  }
  for (int i = 0; i < kStates; ++i) {
    const Wide h = fma_wide(decay[i], load_wide(from + (n + i) * kWideLanes), dx * splat_wide(b[n + i]));
    store_wide(to + (n + i) * kWideLanes, h);
    if constexpr (kHasOutput) sum = fma_wide(splat_wide(c[n + i]), h, sum);
  }
  return sum;
}

// One tile at one token. Returns Σ_n c[n] h[n].
template <bool kHasOutput>
inline Wide scan_tile(int64_t states, const float* a, const float* from, float* to, Wide delta, Wide dx,
                      const float* b, const float* c) {
  Wide sum = Wide{};
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
  Wide delta[kScanChannels / kWideLanes][kTokens], dx[kScanChannels / kWideLanes][kTokens];
  Wide sum[kScanChannels / kWideLanes][kTokens];  // Σ_n c[n] h[n]

  ScanPiece(const ScanRows& a, int64_t first)
      : a(a), first(first), count(a.count - first < kTokens ? static_cast<int>(a.count - first) : kTokens) {}

  // body(tile, its first channel, how many it has)
  template <class Body>
  void each_tile(Body body) {
    for (int channel = 0; channel < a.channels; channel += kWideLanes)
      body(channel / kWideLanes, channel,
           a.channels - channel < kWideLanes ? a.channels - channel : kWideLanes);
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
      const Wide bias = load_up_to(a.dt_bias + channel, lanes);
      for (int i = 0; i < count; ++i) {
        const float* dt = a.dt + (first + i) * a.dt_stride + channel;
        delta[tile][i] = softplus(load_up_to(dt, lanes) + bias);
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
      const Wide d = load_up_to(a.d + channel, lanes);
      for (int i = 0; i < count; ++i) {
        const int64_t t = first + i;
        Wide y = fma_wide(d, load_up_to(a.x + t * a.x_stride + channel, lanes), sum[tile][i]);
        if (a.z != nullptr) y = y * silu_of(load_up_to(a.z + t * a.z_stride + channel, lanes));
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
