// sample: passes over the logits of one row. Compiled for each instruction-set level.
#pragma once

#include <stddef.h>

#include "simd/vector.h"

namespace crosscurrent::cpu {

struct SampleKernels {
  // The largest logit; NaN where any is NaN.
  float (*max)(const float* logits, int64_t count);
  // The first index of a logit that equals `value`, or `count`.
  int64_t (*find)(const float* logits, int64_t count, float value);
  // Sum of exp((logit - max) / temperature).
  double (*total)(const float* logits, int64_t count, float max, float temperature);
  // Indices of logits in [low, high), rising, to `ids`, which has room for all; returns their number.
  int64_t (*collect)(const float* logits, int64_t count, float low, float high, int32_t* ids);
  // One weight as `total` sees it.
  float (*weight)(float logit, float max, float temperature);
};

extern const SampleKernels kSampleV2;
extern const SampleKernels kSampleAvx2;

namespace {

constexpr float kMinusInfinity = -__builtin_inff();

inline F32x8 load_logits(const float* logits, int64_t left) {
  return left >= kLanes ? load8(logits) : load_part(logits, static_cast<int>(left), kMinusInfinity);
}

float max_logit(const float* logits, int64_t count) {
  F32x8 best = splat(kMinusInfinity);
  I32x8 bad{};
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32x8 x = load_logits(logits + i, count - i);
    bad |= x != x;
    best = max8(x, best);
  }
  return mask_bits(bad) != 0 ? __builtin_nanf("") : max_lane(best);
}

int64_t find_logit(const float* logits, int64_t count, float value) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int lanes = mask_bits(load_logits(logits + i, count - i) == value);
    if (lanes != 0) return i + __builtin_ctz(static_cast<unsigned>(lanes));
  }
  return count;
}

inline F32x8 weight8(F32x8 logits, float max, float temperature) {
  return exp8((logits - max) / temperature);
}

double total_weight(const float* logits, int64_t count, float max, float temperature) {
  constexpr int64_t kChunk = 64 * kLanes;  // f32 sums of 64 terms, f64 beyond
  double total = 0;
  for (int64_t start = 0; start < count; start += kChunk) {
    const int64_t end = count - start < kChunk ? count : start + kChunk;
    F32x8 sum{};
    for (int64_t i = start; i < end; i += kLanes)
      sum += weight8(load_logits(logits + i, count - i), max, temperature);
    total += sum8(sum);
  }
  return total;
}

int64_t collect_logits(const float* logits, int64_t count, float low, float high, int32_t* ids) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32x8 x = load_logits(logits + i, count - i);
    auto lanes = static_cast<unsigned>(mask_bits((x >= low) & (x < high)));
    if (count - i < kLanes) lanes &= (1u << (count - i)) - 1;
    for (; lanes != 0; lanes &= lanes - 1) ids[found++] = static_cast<int32_t>(i + __builtin_ctz(lanes));
  }
  return found;
}

float one_weight(float logit, float max, float temperature) {
  return weight8(splat(logit), max, temperature)[0];
}

constexpr SampleKernels kSamplePasses = {max_logit, find_logit, total_weight, collect_logits, one_weight};

}  // namespace
}  // namespace crosscurrent::cpu
