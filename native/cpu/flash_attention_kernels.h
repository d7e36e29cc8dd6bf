// flash_attention's work on one block of 32 keys, one table an instruction-set level. Plain structs (see
// isa.h).
//
// What a call does to a query depends on that query, the keys it sees and its running softmax alone: never
// on the number of queries of the call. Scores are chains over head_dim, values chains over keys in order.
// int8 rows meet their scale where it costs least: keys after the sum of a score, values in the weights.
#pragma once

#include <stddef.h>

#include "simd/kv_elements.h"
#include "simd/vector.h"
#include "simd/wide_vector.h"

namespace crosscurrent::cpu {

// As kv_layout.h lays them out in a block of 32 tokens.
struct AttentionBlock {
  const void* keys;
  const void* values;
  const void* next;        // keys of a block that is likely to follow, or null: fetched ahead
  const float* key_scale;  // [32] of int8 rows, else null
  const float* value_scale;
  int first, last;  // keys of the block that all queries of the call see
  int64_t head_dim;
  float scale, softcap;
  const float* slope;  // [queries] of ALiBi, or null
  const float* ahead;  // [queries] the block's first key less the query's position
  // The queries and their running softmax: sum[i] = exp-weighted values relative to max[i], total[i] =
  // weights.
  int64_t queries;
  const float* const* q;  // [queries] each [head_dim]
  float* sum;             // [queries, head_dim]
  float* max;             // [queries]
  float* total;           // [queries]
  float* room;            // [2, 32 * head_dim] for a block as f32
};

// Types of the elements of a cache.
enum { kKvF32, kKvF16, kKvBf16, kKvInt8, kKvTypes };

struct AttentionKernels {
  void (*block[kKvTypes])(const AttentionBlock* block);
};

extern const AttentionKernels kAttentionV2;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512Vnni;

namespace {

constexpr int kBlockKeys = 32;
constexpr int kBlockVectors = kBlockKeys / kLanes, kBlockWides = kBlockKeys / kWideLanes;
constexpr int kMostQueries = kWideLanes == 16 ? 6 : 3;  // of a round: their sums fill the registers

// The processor does not guess the way from keys to values and from page to page: asking for them while the
// other half of a block is computed brought decode over 94 MB of f32 cache from 437 to 320 us a layer, where
// reading alone takes 295 (Zen 3, 2048 keys, 3 kv heads of 64, one thread).
template <int count, class Element>
inline void fetch(const Element* from) {
  for (size_t at = 0; at < count * sizeof(Element); at += 64) __builtin_prefetch((const char*)from + at);
}

// s += q[d] k[d] over the block; `key` is where d's pair begins.
template <class Kv, int kPart, int queries>
inline void add_scores(const AttentionBlock& a, int64_t at, int64_t d, const typename Kv::Element* key,
                       Wide (&s)[queries][kBlockWides]) {
  Wide k[kBlockWides];
  for (int i = 0; i < kBlockWides; ++i) k[i] = Kv::template wide<kPart>(key + i * kWideLanes * Kv::kPair);
  for (int query = 0; query < queries; ++query) {
    const Wide q = splat_wide(a.q[at + query][d]);
    for (int i = 0; i < kBlockWides; ++i) s[query][i] = fma_wide(q, k[i], s[query][i]);
  }
}

// Products of queries and keys, with what the scores are made of before the softmax: minus infinity where a
// key is not seen.
inline void finish_scores(const AttentionBlock& a, int64_t query, F32x8 (&s)[kBlockVectors]) {
  for (int i = 0; i < kBlockVectors; ++i) {
    const I32x8 key_index = I32x8{0, 1, 2, 3, 4, 5, 6, 7} + i * kLanes;
    const I32x8 seen = (key_index >= a.first) & (key_index < a.last);
    F32x8 value = select(seen, s[i], F32x8{});  // a key that is not seen may be any bits
    if (a.key_scale != NULL) value = value * select(seen, load8(a.key_scale + i * kLanes), F32x8{});
    value = value * a.scale;
    if (a.softcap > 0) value = a.softcap * tanh8(value / a.softcap);
    if (a.slope != NULL) {
      const F32x8 distance = __builtin_convertvector(key_index, F32x8) + a.ahead[query];
      value = fma8(splat(a.slope[query]), distance, value);
    }
    s[i] = select(seen, value, splat(-__builtin_inff()));
  }
}

template <class Kv, int queries, bool fetches>
inline void score(const AttentionBlock& a, int64_t at, Wide (&s)[queries][kBlockWides]) {
  const auto* key = static_cast<const typename Kv::Element*>(a.keys);
  const auto* values = static_cast<const typename Kv::Element*>(a.values);
  int64_t d = 0;
  for (; d + Kv::kPair <= a.head_dim; d += Kv::kPair, key += kBlockKeys * Kv::kPair) {
    if constexpr (fetches) fetch<kBlockKeys * Kv::kPair>(values + d * kBlockKeys);
    add_scores<Kv, 0>(a, at, d, key, s);
    if constexpr (Kv::kPair == 2) add_scores<Kv, 1>(a, at, d + 1, key, s);
  }
  if (d < a.head_dim) add_scores<Kv, 0>(a, at, d, key, s);
}

// Adds the block's weights to the running softmax of a query; returns what its sum shrinks by. One copy for
// all callers: inlined, it is most of the level's code.
__attribute__((noinline)) float renormalize(const AttentionBlock& a, int64_t query,
                                            const Wide (&products)[kBlockWides], float* weights) {
  F32x8 s[kBlockVectors], p[kBlockVectors];
  memcpy(s, products, sizeof s);
  finish_scores(a, query, s);
  const float old_max = a.max[query];
  const float block_max = max_lane(max8(max8(s[0], s[1]), max8(s[2], s[3])));
  const bool rises = block_max > old_max;
  const float new_max = rises ? block_max : old_max;
  const float shrink = rises ? exp8(splat(old_max - new_max))[0] : 1.0f;
  for (int i = 0; i < kBlockVectors; ++i) {
    p[i] = exp8(s[i] - new_max);
    store8(weights + i * kLanes, a.value_scale != NULL ? p[i] * load8(a.value_scale + i * kLanes) : p[i]);
  }
  a.max[query] = new_max;
  a.total[query] = a.total[query] * shrink + sum8((p[0] + p[1]) + (p[2] + p[3]));
  return shrink;
}

// How the lanes of a sum over values are held: as wide as the level has them, or eight for what is left.
struct WideLanes {
  using Vector = Wide;
  static constexpr int kCount = kWideLanes;
  static Vector load(const float* from) { return load_wide(from); }
  static void store(float* to, Vector value) { store_wide(to, value); }
  static Vector splat(float x) { return splat_wide(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return fma_wide(a, b, c); }
  template <class Kv, int kPart>
  static Vector values(const typename Kv::Element* from) {
    return Kv::template wide<kPart>(from);
  }
};

struct EightLanes {
  using Vector = F32x8;
  static constexpr int kCount = kLanes;
  static Vector load(const float* from) { return load8(from); }
  static void store(float* to, Vector value) { store8(to, value); }
  static Vector splat(float x) { return cpu::splat(x); }
  static Vector fma(Vector a, Vector b, Vector c) { return fma8(a, b, c); }
  template <class Kv, int kPart>
  static Vector values(const typename Kv::Element* from) {
    return Kv::template load<kPart>(from);
  }
};

// sum += weights[key] * values[key, d … ); `value` is where the key's pair begins.
template <class Kv, class Lanes, int kPart, int queries, int vectors>
inline void add_weighted(const typename Kv::Element* value, int key, const float (*weights)[kBlockKeys],
                         typename Lanes::Vector (&sum)[queries][vectors]) {
  using Vector = typename Lanes::Vector;
  Vector v[vectors];
  for (int i = 0; i < vectors; ++i)
    v[i] = Lanes::template values<Kv, kPart>(value + i * Lanes::kCount * Kv::kPair);
  for (int query = 0; query < queries; ++query) {
    const Vector weight = Lanes::splat(weights[query][key]);
    for (int i = 0; i < vectors; ++i) sum[query][i] = Lanes::fma(weight, v[i], sum[query][i]);
  }
}

// sum[:, d … d + vectors) = sum * shrink + weights * values
template <class Kv, class Lanes, int queries, int vectors, bool fetches>
inline void add_values(const AttentionBlock& a, int64_t at, int64_t d, const float* shrink,
                       const float (*weights)[kBlockKeys]) {
  using Element = typename Kv::Element;
  constexpr int kColumns = vectors * Lanes::kCount;
  typename Lanes::Vector sum[queries][vectors];
  for (int query = 0; query < queries; ++query)
    for (int i = 0; i < vectors; ++i)
      sum[query][i] = Lanes::load(a.sum + (at + query) * a.head_dim + d + i * Lanes::kCount) * shrink[query];
  const auto pair = [&](int key) {
    return static_cast<const Element*>(a.values) + (key / Kv::kPair * a.head_dim + d) * Kv::kPair;
  };
  int key = a.first;
  if (Kv::kPair == 2 && key % 2 != 0) {
    add_weighted<Kv, Lanes, Kv::kPair - 1>(pair(key), key, weights, sum);
    ++key;
  }
  for (; key + Kv::kPair <= a.last; key += Kv::kPair) {
    if constexpr (fetches) {
      const auto* next = static_cast<const Element*>(a.next) + key * a.head_dim + d;
      fetch<kColumns>(next);
      if constexpr (Kv::kPair == 2) fetch<kColumns>(next + a.head_dim);
    }
    add_weighted<Kv, Lanes, 0>(pair(key), key, weights, sum);
    if constexpr (Kv::kPair == 2) add_weighted<Kv, Lanes, 1>(pair(key), key + 1, weights, sum);
  }
  if (key < a.last) add_weighted<Kv, Lanes, 0>(pair(key), key, weights, sum);
  for (int query = 0; query < queries; ++query)
    for (int i = 0; i < vectors; ++i)
      Lanes::store(a.sum + (at + query) * a.head_dim + d + i * Lanes::kCount, sum[query][i]);
}

template <class Kv>
inline const typename Kv::Element* value_of(const AttentionBlock& a, int key, int64_t d) {
  return static_cast<const typename Kv::Element*>(a.values) + (key / Kv::kPair * a.head_dim + d) * Kv::kPair +
         key % Kv::kPair;
}

// One round of queries from `at` on: their weights in the block, and what their sums shrink by.
template <class Kv, int queries, bool fetches>
void score_round(const AttentionBlock& a, int64_t at, float (*weights)[kBlockKeys], float* shrink) {
  Wide s[queries][kBlockWides] = {};
  score<Kv, queries, fetches>(a, at, s);
  for (int query = 0; query < queries; ++query)
    shrink[query] = renormalize(a, at + query, s[query], weights[query]);
}

template <class Kv, int queries, bool fetches>
void value_round(const AttentionBlock& a, int64_t at, const float (*weights)[kBlockKeys],
                 const float* shrink) {
  // 8 … 12 independent chains hide the latency of a multiply-add; 16 lanes leave few columns for them
  constexpr int kVectors = queries == 1 && !fetches && kWideLanes == 8 ? 8 : 4;
  constexpr int kColumns = kVectors * kWideLanes;
  int64_t d = 0;
  for (; d + kColumns <= a.head_dim; d += kColumns)
    add_values<Kv, WideLanes, queries, kVectors, fetches>(a, at, d, shrink, weights);
  for (; d + kWideLanes <= a.head_dim; d += kWideLanes)
    add_values<Kv, WideLanes, queries, 1, false>(a, at, d, shrink, weights);
  if (kWideLanes > kLanes && d + kLanes <= a.head_dim) {
    add_values<Kv, EightLanes, queries, 1, false>(a, at, d, shrink, weights);
    d += kLanes;
  }
  for (; d < a.head_dim; ++d) {
    for (int query = 0; query < queries; ++query) {
      float* sum = a.sum + (at + query) * a.head_dim + d;
      *sum *= shrink[query];
      for (int key = a.first; key < a.last; ++key)
        *sum = fma1(weights[query][key], Kv::one(value_of<Kv>(a, key, d)), *sum);
    }
  }
}

// Rounds of the next `count` queries, at most `queries`.
template <class Kv, int queries, bool fetches>
void score_some(const AttentionBlock& a, int64_t at, int64_t count, float (*weights)[kBlockKeys],
                float* shrink) {
  if (count >= queries)
    score_round<Kv, queries, fetches>(a, at, weights, shrink);
  else if constexpr (queries > 1)
    score_some<Kv, queries - 1, fetches>(a, at, count, weights, shrink);
}

template <class Kv, int queries, bool fetches>
void value_some(const AttentionBlock& a, int64_t at, int64_t count, const float (*weights)[kBlockKeys],
                const float* shrink) {
  if (count >= queries)
    value_round<Kv, queries, fetches>(a, at, weights, shrink);
  else if constexpr (queries > 1)
    value_some<Kv, queries - 1, fetches>(a, at, count, weights, shrink);
}

// Of many queries the scores of all, then the values: of a block of keys and values of 128 elements, L1 holds
// one half beside the queries.
template <class Kv>
void attend_queries(const AttentionBlock& a) {
  constexpr int kMany = 24;
  const int64_t step = a.queries > 2 * kMostQueries ? kMany : kMostQueries;
  float weights[kMany][kBlockKeys], shrink[kMany];
  for (int64_t begin = 0; begin < a.queries; begin += step) {
    const int64_t count = a.queries - begin < step ? a.queries - begin : step;
    const bool fetches = begin == 0 && a.next != NULL;
    for (int64_t i = 0; i < count; i += kMostQueries) {
      if (fetches && i == 0)
        score_some<Kv, kMostQueries, true>(a, begin, count, weights, shrink);
      else
        score_some<Kv, kMostQueries, false>(a, begin + i, count - i, weights + i, shrink + i);
    }
    for (int64_t i = 0; i < count; i += kMostQueries) {
      if (fetches && i == 0)
        value_some<Kv, kMostQueries, true>(a, begin, count, weights, shrink);
      else
        value_some<Kv, kMostQueries, false>(a, begin + i, count - i, weights + i, shrink + i);
    }
  }
}

// The block as f32, whose conversion many queries then share: the same numbers, so the same bits.
template <class Kv>
AttentionBlock widened(const AttentionBlock& a) {
  float *keys = a.room, *values = a.room + kBlockKeys * a.head_dim;
  const auto* from = static_cast<const typename Kv::Element*>(a.keys);
  for (int64_t d = 0; d < a.head_dim; ++d) {
    const auto* key = from + d / Kv::kPair * kBlockKeys * Kv::kPair;
    for (int i = 0; i < kBlockKeys; i += kLanes) {
      const auto* part = key + i * Kv::kPair;
      store8(keys + d * kBlockKeys + i,
             d % Kv::kPair == 0 ? Kv::template load<0>(part) : Kv::template load<Kv::kPair - 1>(part));
    }
  }
  for (int key = a.first; key < a.last; ++key) {
    float* to = values + key * a.head_dim;
    int64_t d = 0;
    for (; d + kLanes <= a.head_dim; d += kLanes) {
      const auto* pair = value_of<Kv>(a, key / Kv::kPair * Kv::kPair, d);
      store8(to + d,
             key % Kv::kPair == 0 ? Kv::template load<0>(pair) : Kv::template load<Kv::kPair - 1>(pair));
    }
    for (; d < a.head_dim; ++d) to[d] = Kv::one(value_of<Kv>(a, key, d));
  }
  AttentionBlock block = a;
  block.keys = keys;
  block.values = values;
  block.next = NULL;
  return block;
}

template <class Kv>
void attention_block(const AttentionBlock* block) {
  constexpr int64_t kFewQueries = 2 * kMostQueries;  // whose rounds convert the block as often
  if (sizeof(typename Kv::Element) == sizeof(float) || block->queries <= kFewQueries)
    return attend_queries<Kv>(*block);
  const AttentionBlock wide = widened<Kv>(*block);
  attend_queries<KvF32>(wide);
}

constexpr AttentionKernels kAttentionBlocks = {
    {attention_block<KvF32>, attention_block<KvF16>, attention_block<KvBf16>, attention_block<KvInt8>}};

}  // namespace
}  // namespace crosscurrent::cpu
