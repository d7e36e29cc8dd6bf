// flash_attention, one block of 32 keys against some queries. Compiled for each instruction-set level.
//
// What a block does to a query depends on that query, the keys it sees and its running softmax alone: never
// on the number of queries of the call. Scores are chains over head_dim, values chains over keys in order.
#pragma once

#include <stddef.h>

#include "simd/vector.h"

namespace crosscurrent::cpu {

struct AttentionBlock {
  const float* keys;    // [head_dim][32]
  const float* values;  // [32][head_dim]
  const float* next;    // keys of a block that is likely to follow, or null: fetched ahead
  int first, last;      // keys of the block that all queries of the call see
  int64_t head_dim;
  float scale, softcap;
  // The queries and their running softmax: sum[i] = exp-weighted values relative to max[i], total[i] =
  // weights.
  int64_t queries;
  const float* const* q;  // [queries] each [head_dim]
  float* sum;             // [queries, head_dim]
  float* max;             // [queries]
  float* total;           // [queries]
};

struct AttentionKernels {
  void (*block)(const AttentionBlock* block);
};

extern const AttentionKernels kAttentionV2;
extern const AttentionKernels kAttentionAvx2;

namespace {

constexpr int kBlockVectors = 4;  // 32 keys

// 32 floats. The processor does not guess the way from keys to values and from page to page: asking for them
// while the other half of a block is computed brought decode over 94 MB of cache from 437 to 320 us a layer,
// where reading alone takes 295 (Zen 3, 2048 keys, 3 kv heads of 64, one thread).
inline void fetch(const float* from) {
  __builtin_prefetch(from);
  __builtin_prefetch(from + 16);
}

// Scores of the block in s, or minus infinity where a key is not seen.
template <int queries, bool fetches>
inline void score(const AttentionBlock& a, int64_t at, F32x8 (&s)[queries][kBlockVectors]) {
  const float* key = a.keys;
  for (int64_t d = 0; d < a.head_dim; ++d, key += kBlockVectors * kLanes) {
    if constexpr (fetches) fetch(a.values + d * kBlockVectors * kLanes);
    F32x8 k[kBlockVectors];
    for (int i = 0; i < kBlockVectors; ++i) k[i] = load8(key + i * kLanes);
    for (int query = 0; query < queries; ++query) {
      const F32x8 q = splat(a.q[at + query][d]);
      for (int i = 0; i < kBlockVectors; ++i) s[query][i] = fma8(q, k[i], s[query][i]);
    }
  }
  for (int query = 0; query < queries; ++query) {
    for (int i = 0; i < kBlockVectors; ++i) {
      F32x8 value = s[query][i] * a.scale;
      if (a.softcap > 0) value = a.softcap * tanh8(value / a.softcap);
      const I32x8 key_index = I32x8{0, 1, 2, 3, 4, 5, 6, 7} + i * kLanes;
      const I32x8 seen = (key_index >= a.first) & (key_index < a.last);
      s[query][i] = select(seen, value, splat(-__builtin_inff()));
    }
  }
}

// Adds the block's weights to the running softmax of a query; returns what its sum shrinks by.
inline float renormalize(const AttentionBlock& a, int64_t query, F32x8 (&s)[kBlockVectors], float* weights) {
  const float old_max = a.max[query];
  const float block_max = max_lane(max8(max8(s[0], s[1]), max8(s[2], s[3])));
  const bool rises = block_max > old_max;
  const float new_max = rises ? block_max : old_max;
  const float shrink = rises ? exp8(splat(old_max - new_max))[0] : 1.0f;
  F32x8 p[kBlockVectors];
  for (int i = 0; i < kBlockVectors; ++i) {
    p[i] = exp8(s[i] - new_max);
    store8(weights + i * kLanes, p[i]);
  }
  a.max[query] = new_max;
  a.total[query] = a.total[query] * shrink + sum8((p[0] + p[1]) + (p[2] + p[3]));
  return shrink;
}

// sum[:, d … d + 8 vectors) = sum * shrink + weights * values
template <int queries, int vectors, bool fetches>
inline void add_values(const AttentionBlock& a, int64_t at, int64_t d, const float* shrink,
                       const float (*weights)[kBlockVectors * kLanes]) {
  F32x8 sum[queries][vectors];
  for (int query = 0; query < queries; ++query)
    for (int i = 0; i < vectors; ++i)
      sum[query][i] = load8(a.sum + (at + query) * a.head_dim + d + i * kLanes) * shrink[query];
  for (int key = a.first; key < a.last; ++key) {
    const float* value = a.values + key * a.head_dim + d;
    if constexpr (fetches) fetch(a.next + key * a.head_dim + d);
    F32x8 v[vectors];
    for (int i = 0; i < vectors; ++i) v[i] = load8(value + i * kLanes);
    for (int query = 0; query < queries; ++query) {
      const F32x8 weight = splat(weights[query][key]);
      for (int i = 0; i < vectors; ++i) sum[query][i] = fma8(weight, v[i], sum[query][i]);
    }
  }
  for (int query = 0; query < queries; ++query)
    for (int i = 0; i < vectors; ++i)
      store8(a.sum + (at + query) * a.head_dim + d + i * kLanes, sum[query][i]);
}

template <int queries, bool fetches>
void attend(const AttentionBlock& a, int64_t at) {
  F32x8 s[queries][kBlockVectors] = {};
  score<queries, fetches>(a, at, s);
  float weights[queries][kBlockVectors * kLanes], shrink[queries];
  for (int query = 0; query < queries; ++query)
    shrink[query] = renormalize(a, at + query, s[query], weights[query]);
  constexpr int kVectors =
      queries == 1 && !fetches ? 8 : 4;  // 8 … 12 independent chains hide the latency of a multiply-add
  int64_t d = 0;
  for (; d + kVectors * kLanes <= a.head_dim; d += kVectors * kLanes)
    add_values<queries, kVectors, fetches>(a, at, d, shrink, weights);
  for (; d + kLanes <= a.head_dim; d += kLanes) add_values<queries, 1, false>(a, at, d, shrink, weights);
  for (; d < a.head_dim; ++d) {
    for (int query = 0; query < queries; ++query) {
      float* sum = a.sum + (at + query) * a.head_dim + d;
      *sum *= shrink[query];
      for (int key = a.first; key < a.last; ++key)
        *sum = fma1(weights[query][key], a.values[key * a.head_dim + d], *sum);
    }
  }
}

template <bool fetches>
int64_t attend_first(const AttentionBlock& a) {
  const int64_t queries = a.queries < 3 ? a.queries : 3;
  if (queries == 3) attend<3, fetches>(a, 0);
  if (queries == 2) attend<2, fetches>(a, 0);
  if (queries == 1) attend<1, fetches>(a, 0);
  return queries;
}

void attention_block(const AttentionBlock* block) {
  int64_t at = block->next != NULL ? attend_first<true>(*block) : attend_first<false>(*block);
  for (; at + 3 <= block->queries; at += 3) attend<3, false>(*block, at);
  if (at + 2 == block->queries) attend<2, false>(*block, at);
  if (at + 1 == block->queries) attend<1, false>(*block, at);
}

constexpr AttentionKernels kAttentionBlocks = {attention_block};

}  // namespace
}  // namespace crosscurrent::cpu
