// rms_norm and gated_rms_norm of one group. Compiled for each instruction-set level; sums go by eights.
#pragma once

#include <stdint.h>

#include "simd/vector.h"

namespace crosscurrent::cpu {

struct NormKernels {
  // y = x / sqrt(mean(x^2) + eps) * weight; without weight where it is null.
  void (*rms)(const float* x, const float* weight, float* y, int64_t count, float eps);
  // The same of h = x * silu(z).
  void (*gated)(const float* x, const float* z, const float* weight, float* y, int64_t count, float eps);
};

extern const NormKernels kNormV2;
extern const NormKernels kNormAvx2;

namespace {

inline float norm_scale(F32x8 squares, int64_t count, float eps) {
  return 1.0f / __builtin_sqrtf(sum8(squares) / static_cast<float>(count) + eps);
}

// y = x * scale * weight
inline void scale_row(const float* x, float scale, const float* weight, float* y, int64_t count) {
  int64_t i = 0;
  if (weight == nullptr) {
    for (; i + kLanes <= count; i += kLanes) store8(y + i, load8(x + i) * scale);
    for (; i < count; ++i) y[i] = x[i] * scale;
    return;
  }
  for (; i + kLanes <= count; i += kLanes) store8(y + i, load8(x + i) * scale * load8(weight + i));
  for (; i < count; ++i) y[i] = x[i] * scale * weight[i];
}

void rms_row(const float* x, const float* weight, float* y, int64_t count, float eps) {
  F32x8 first{}, second{};  // two chains hide the latency of an add
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const F32x8 a = load8(x + i), b = load8(x + i + kLanes);
    first += a * a;
    second += b * b;
  }
  for (; i < count; i += kLanes) {
    const F32x8 a = count - i < kLanes ? load_part(x + i, static_cast<int>(count - i), 0) : load8(x + i);
    first += a * a;
  }
  scale_row(x, norm_scale(first + second, count, eps), weight, y, count);
}

void gated_row(const float* x, const float* z, const float* weight, float* y, int64_t count, float eps) {
  F32x8 squares{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const F32x8 h = load8(x + i) * silu8(load8(z + i));
    store8(y + i, h);
    squares += h * h;
  }
  if (const int rest = static_cast<int>(count - i); rest > 0) {
    const F32x8 h = load_part(x + i, rest, 0) * silu8(load_part(z + i, rest, 0));
    store_part(y + i, h, rest);
    squares += h * h;
  }
  scale_row(y, norm_scale(squares, count, eps), weight, y, count);
}

constexpr NormKernels kNormRows = {rms_row, gated_row};

}  // namespace

// Of the active level.
const NormKernels& norm_kernels();

}  // namespace crosscurrent::cpu
