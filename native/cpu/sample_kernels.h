// sample: passes over the logits of one row. Compiled for each instruction-set level.
#pragma once

#include <stddef.h>

#include "simd/wide_math.h"

namespace crosscurrent::cpu {

struct SampleKernels {
  // The largest logit; NaN where any is NaN.
  float (*max)(const float* logits, int64_t count);
  // The first index of a logit that equals `value`, or `count`.
  int64_t (*find)(const float* logits, int64_t count, float value);
  // Which the largest is, the first among equals, and the largest itself; NaN where any is NaN.
  int64_t (*first_largest)(const float* logits, int64_t count, float* max);
  // Sum of exp((logit - max) / temperature).
  double (*total)(const float* logits, int64_t count, float max, float temperature);
  // Indices of logits in [low, high), rising, to `ids`, which has room for all; returns their number.
  int64_t (*collect)(const float* logits, int64_t count, float low, float high, int32_t* ids);
  // One weight as `total` sees it.
  float (*weight)(float logit, float max, float temperature);
};

extern const SampleKernels kSampleV2;
extern const SampleKernels kSampleAvx2;
extern const SampleKernels kSampleAvx512Vnni;

namespace {

constexpr float kMinusInfinity = -__builtin_inff();

inline Wide load_logits(const float* logits, int64_t left) {
  return left >= kWideLanes ? load_wide(logits)
                            : load_wide_part(logits, static_cast<int>(left), kMinusInfinity);
}

inline float largest_lane(Wide v) {
  const F32x8 low = eight_of(v, 0);
  return max_lane(kWideLanes == kLanes ? low : max8(low, eight_of(v, 1)));
}

float max_logit(const float* logits, int64_t count) {
  constexpr int kChains = 4;  // hide the latency of a comparison
  Wide best[kChains];
  WideInt bad[kChains] = {};
  for (Wide& lanes : best) lanes = splat_wide(kMinusInfinity);
  int64_t i = 0;
  for (; i + kChains * kWideLanes <= count; i += kChains * kWideLanes) {
    for (int j = 0; j < kChains; ++j) {
      const Wide x = load_wide(logits + i + j * kWideLanes);
      bad[j] |= x != x;
      best[j] = max_wide(x, best[j]);
    }
  }
  for (; i < count; i += kWideLanes) {
    const Wide x = load_logits(logits + i, count - i);
    bad[0] |= x != x;
    best[0] = max_wide(x, best[0]);
  }
  if (wide_mask_bits((bad[0] | bad[1]) | (bad[2] | bad[3])) != 0) return __builtin_nanf("");
  return largest_lane(max_wide(max_wide(best[0], best[1]), max_wide(best[2], best[3])));
}

int64_t find_logit(const float* logits, int64_t count, float value) {
  const Wide wanted = splat_wide(value);
  for (int64_t i = 0; i < count; i += kWideLanes) {
    const unsigned lanes = wide_mask_bits(load_logits(logits + i, count - i) == wanted);
    if (lanes != 0) return i + __builtin_ctz(lanes);
  }
  return count;
}

// A block is searched again only if it holds the largest: one pass over memory, not two.
int64_t first_largest(const float* logits, int64_t count, float* max) {
  constexpr int64_t kBlock = 4096;
  int64_t block = 0;
  float best = kMinusInfinity;
  for (int64_t start = 0; start < count; start += kBlock) {
    const float here = max_logit(logits + start, count - start < kBlock ? count - start : kBlock);
    if (here <= best) continue;
    best = here;
    block = start;
    if (here != here) break;
  }
  *max = best;
  return block + find_logit(logits + block, count - block < kBlock ? count - block : kBlock, best);
}

inline Wide weight_of(Wide logits, float max, float temperature) {
  return exp_of((logits - max) / temperature);
}

double total_weight(const float* logits, int64_t count, float max, float temperature) {
  constexpr int64_t kChunk = 64 * kLanes;  // f32 sums of 64 terms, f64 beyond
  double total = 0;
  for (int64_t start = 0; start < count; start += kChunk) {
    const int64_t end = count - start < kChunk ? count : start + kChunk;
    F32x8 sum{};
    for (int64_t i = start; i < end; i += kWideLanes) {
      const Wide weights = weight_of(load_logits(logits + i, count - i), max, temperature);
      sum += eight_of(weights, 0);
      if (kWideLanes != kLanes) sum += eight_of(weights, 1);
    }
    total += sum8(sum);
  }
  return total;
}

int64_t collect_logits(const float* logits, int64_t count, float low, float high, int32_t* ids) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += kWideLanes) {
    const Wide x = load_logits(logits + i, count - i);
    unsigned lanes = wide_mask_bits((x >= low) & (x < high));
    if (count - i < kWideLanes) lanes &= (1u << (count - i)) - 1;
    for (; lanes != 0; lanes &= lanes - 1) ids[found++] = static_cast<int32_t>(i + __builtin_ctz(lanes));
  }
  return found;
}

float one_weight(float logit, float max, float temperature) {
  return eight_of(weight_of(splat_wide(logit), max, temperature), 0)[0];
}

constexpr SampleKernels kSamplePasses = {max_logit,    find_logit,     first_largest,
                                         total_weight, collect_logits, one_weight};

}  // namespace
}  // namespace crosscurrent::cpu
