// Written by scripts/gen.ts from src/ops. Do not edit.
// clang-format off
#pragma once

#include <bit>
#include <cstdint>
#include <span>

#include "op_info.h"
#include "tensor.h"

namespace crosscurrent {

inline constexpr int32_t kSignatureHash = -402898993;

enum class Opcode : int32_t { embedding, linear, rms_norm, gated_rms_norm, add, act_mul, rope, flash_attention, causal_conv1d, selective_scan, ssd, router, moe, gather_rows, sample, top_probabilities };

enum class Activation : int32_t { none, silu, gelu, relu2 };
enum class Rule : int32_t { softmax_topk, topk_softmax, sigmoid };

struct Embedding {
  Tensor ids;  // [t]
  Tensor weight;  // [vocab, dim]
  Tensor y;  // [t, dim]
  float scale;
  int64_t t, vocab, dim;

  static Embedding decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    Embedding a;
    a.ids = tensors[0];
    a.weight = tensors[1];
    a.y = tensors[2];
    a.scale = std::bit_cast<float>(attrs[0]);
    a.t = a.ids.dims[0];
    a.vocab = a.weight.dims[0];
    a.dim = a.weight.dims[1];
    return a;
  }
};

struct Linear {
  Tensor x;  // [rows, in]
  Tensor weight;  // [out, in]
  Tensor bias;  // [out], optional
  Tensor residual;  // [rows, out], optional
  Tensor y;  // [rows, out]
  float scale;
  bool exact;
  int64_t rows, in, out;

  static Linear decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    Linear a;
    a.x = tensors[0];
    a.weight = tensors[1];
    a.bias = tensors[2];
    a.residual = tensors[3];
    a.y = tensors[4];
    a.scale = std::bit_cast<float>(attrs[0]);
    a.exact = attrs[1] != 0;
    a.rows = a.x.dims[0];
    a.in = a.x.dims[1];
    a.out = a.weight.dims[0];
    return a;
  }
};

struct RmsNorm {
  Tensor x;  // [rows, groups*width]
  Tensor weight;  // [width], optional
  Tensor y;  // [rows, groups*width]
  int32_t width;
  float eps;
  int64_t rows, groups;

  static RmsNorm decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    RmsNorm a;
    a.x = tensors[0];
    a.weight = tensors[1];
    a.y = tensors[2];
    a.width = static_cast<int32_t>(attrs[0]);
    a.eps = std::bit_cast<float>(attrs[1]);
    a.rows = a.x.dims[0];
    a.groups = a.x.dims[1] / a.width;
    return a;
  }
};

struct GatedRmsNorm {
  Tensor x;  // [rows, groups*width]
  Tensor z;  // [rows, groups*width]
  Tensor weight;  // [groups*width]
  Tensor y;  // [rows, groups*width]
  int32_t width;
  float eps;
  int64_t rows, groups;

  static GatedRmsNorm decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    GatedRmsNorm a;
    a.x = tensors[0];
    a.z = tensors[1];
    a.weight = tensors[2];
    a.y = tensors[3];
    a.width = static_cast<int32_t>(attrs[0]);
    a.eps = std::bit_cast<float>(attrs[1]);
    a.rows = a.x.dims[0];
    a.groups = a.x.dims[1] / a.width;
    return a;
  }
};

struct Add {
  Tensor a;  // [rows, dim]
  Tensor b;  // [rows, dim]
  Tensor y;  // [rows, dim]
  float scale;
  int64_t rows, dim;

  static Add decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    Add a;
    a.a = tensors[0];
    a.b = tensors[1];
    a.y = tensors[2];
    a.scale = std::bit_cast<float>(attrs[0]);
    a.rows = a.a.dims[0];
    a.dim = a.a.dims[1];
    return a;
  }
};

struct ActMul {
  Tensor gate;  // [rows, ff]
  Tensor up;  // [rows, ff], optional
  Tensor y;  // [rows, ff]
  Activation activation;
  int64_t rows, ff;

  static ActMul decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    ActMul a;
    a.gate = tensors[0];
    a.up = tensors[1];
    a.y = tensors[2];
    a.activation = static_cast<Activation>(attrs[0]);
    a.rows = a.gate.dims[0];
    a.ff = a.gate.dims[1];
    return a;
  }
};

struct Rope {
  Tensor x;  // [t, heads*head_dim]
  Tensor position;  // [t]
  Tensor inv_freq;  // [half]
  Tensor y;  // [t, heads*head_dim]
  int32_t head_dim;
  bool interleaved;
  float scale;
  int64_t t, heads, half;

  static Rope decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    Rope a;
    a.x = tensors[0];
    a.position = tensors[1];
    a.inv_freq = tensors[2];
    a.y = tensors[3];
    a.head_dim = static_cast<int32_t>(attrs[0]);
    a.interleaved = attrs[1] != 0;
    a.scale = std::bit_cast<float>(attrs[2]);
    a.t = a.x.dims[0];
    a.heads = a.x.dims[1] / a.head_dim;
    a.half = a.inv_freq.dims[0];
    return a;
  }
};

struct FlashAttention {
  Tensor q;  // [t, heads*head_dim]
  Tensor k;  // [t, kv_heads*head_dim]
  Tensor v;  // [t, kv_heads*head_dim]
  Tensor sinks;  // [heads], optional
  Tensor alibi;  // [heads], optional
  StateView cache;  // kv
  Tensor y;  // [t, heads*head_dim]
  int32_t head_dim;
  float scale;
  int32_t window;
  float softcap;
  int64_t t, heads, kv_heads;

  static FlashAttention decode(const Tensor* tensors, const StateView* states, const int32_t* attrs) {
    FlashAttention a;
    a.q = tensors[0];
    a.k = tensors[1];
    a.v = tensors[2];
    a.sinks = tensors[3];
    a.alibi = tensors[4];
    a.cache = states[0];
    a.y = tensors[5];
    a.head_dim = static_cast<int32_t>(attrs[0]);
    a.scale = std::bit_cast<float>(attrs[1]);
    a.window = static_cast<int32_t>(attrs[2]);
    a.softcap = std::bit_cast<float>(attrs[3]);
    a.t = a.q.dims[0];
    a.heads = a.q.dims[1] / a.head_dim;
    a.kv_heads = a.k.dims[1] / a.head_dim;
    return a;
  }
};

struct CausalConv1d {
  Tensor x;  // [t, channels]
  Tensor weight;  // [channels, kernel]
  Tensor bias;  // [channels], optional
  StateView window;  // conv
  Tensor y;  // [t, channels]
  Activation activation;
  int64_t t, channels, kernel;

  static CausalConv1d decode(const Tensor* tensors, const StateView* states, const int32_t* attrs) {
    CausalConv1d a;
    a.x = tensors[0];
    a.weight = tensors[1];
    a.bias = tensors[2];
    a.window = states[0];
    a.y = tensors[3];
    a.activation = static_cast<Activation>(attrs[0]);
    a.t = a.x.dims[0];
    a.channels = a.x.dims[1];
    a.kernel = a.weight.dims[1];
    return a;
  }
};

struct SelectiveScan {
  Tensor x;  // [t, channels]
  Tensor dt;  // [t, channels]
  Tensor dt_bias;  // [channels]
  Tensor a;  // [channels, states]
  Tensor b;  // [t, states]
  Tensor c;  // [t, states]
  Tensor d;  // [channels]
  Tensor z;  // [t, channels], optional
  StateView h;  // scan
  Tensor y;  // [t, channels]
  int64_t t, channels, states;

  static SelectiveScan decode(const Tensor* tensors, const StateView* states, const int32_t*) {
    SelectiveScan a;
    a.x = tensors[0];
    a.dt = tensors[1];
    a.dt_bias = tensors[2];
    a.a = tensors[3];
    a.b = tensors[4];
    a.c = tensors[5];
    a.d = tensors[6];
    a.z = tensors[7];
    a.h = states[0];
    a.y = tensors[8];
    a.t = a.x.dims[0];
    a.channels = a.x.dims[1];
    a.states = a.a.dims[1];
    return a;
  }
};

struct Ssd {
  Tensor x;  // [t, heads*head_dim]
  Tensor dt;  // [t, heads]
  Tensor dt_bias;  // [heads]
  Tensor a;  // [heads]
  Tensor b;  // [t, groups*states]
  Tensor c;  // [t, groups*states]
  Tensor d;  // [heads]
  StateView s;  // scan
  Tensor y;  // [t, heads*head_dim]
  int32_t head_dim;
  int32_t groups;
  float dt_min;
  float dt_max;
  int64_t t, heads, states;

  static Ssd decode(const Tensor* tensors, const StateView* states, const int32_t* attrs) {
    Ssd a;
    a.x = tensors[0];
    a.dt = tensors[1];
    a.dt_bias = tensors[2];
    a.a = tensors[3];
    a.b = tensors[4];
    a.c = tensors[5];
    a.d = tensors[6];
    a.s = states[0];
    a.y = tensors[7];
    a.head_dim = static_cast<int32_t>(attrs[0]);
    a.groups = static_cast<int32_t>(attrs[1]);
    a.dt_min = std::bit_cast<float>(attrs[2]);
    a.dt_max = std::bit_cast<float>(attrs[3]);
    a.t = a.x.dims[0];
    a.heads = a.dt.dims[1];
    a.states = a.b.dims[1] / a.groups;
    return a;
  }
};

struct Router {
  Tensor logits;  // [t, experts]
  Tensor bias;  // [experts], optional
  Tensor ids;  // [t, top_k]
  Tensor weights;  // [t, top_k]
  int32_t top_k;
  Rule rule;
  bool renormalize;
  float scale;
  int64_t t, experts;

  static Router decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    Router a;
    a.logits = tensors[0];
    a.bias = tensors[1];
    a.ids = tensors[2];
    a.weights = tensors[3];
    a.top_k = static_cast<int32_t>(attrs[0]);
    a.rule = static_cast<Rule>(attrs[1]);
    a.renormalize = attrs[2] != 0;
    a.scale = std::bit_cast<float>(attrs[3]);
    a.t = a.logits.dims[0];
    a.experts = a.logits.dims[1];
    return a;
  }
};

struct Moe {
  Tensor x;  // [t, dim]
  Tensor ids;  // [t, top_k]
  Tensor weights;  // [t, top_k]
  Tensor gate;  // [experts, ff, dim]
  Tensor up;  // [experts, ff, dim], optional
  Tensor down;  // [experts, dim, ff]
  Tensor y;  // [t, dim]
  Activation activation;
  int64_t t, dim, top_k, experts, ff;

  static Moe decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    Moe a;
    a.x = tensors[0];
    a.ids = tensors[1];
    a.weights = tensors[2];
    a.gate = tensors[3];
    a.up = tensors[4];
    a.down = tensors[5];
    a.y = tensors[6];
    a.activation = static_cast<Activation>(attrs[0]);
    a.t = a.x.dims[0];
    a.dim = a.x.dims[1];
    a.top_k = a.ids.dims[1];
    a.experts = a.gate.dims[0];
    a.ff = a.gate.dims[1];
    return a;
  }
};

struct GatherRows {
  Tensor x;  // [t, dim]
  Tensor index;  // [rows]
  Tensor y;  // [rows, dim]
  int64_t t, dim, rows;

  static GatherRows decode(const Tensor* tensors, const StateView*, const int32_t*) {
    GatherRows a;
    a.x = tensors[0];
    a.index = tensors[1];
    a.y = tensors[2];
    a.t = a.x.dims[0];
    a.dim = a.x.dims[1];
    a.rows = a.index.dims[0];
    return a;
  }
};

struct Sample {
  Tensor logits;  // [rows, vocab]
  Tensor ids;  // [rows]
  int64_t rows, vocab;

  static Sample decode(const Tensor* tensors, const StateView*, const int32_t*) {
    Sample a;
    a.logits = tensors[0];
    a.ids = tensors[1];
    a.rows = a.logits.dims[0];
    a.vocab = a.logits.dims[1];
    return a;
  }
};

struct TopProbabilities {
  Tensor logits;  // [rows, vocab]
  Tensor y;  // [rows, 2*top_k]
  int32_t top_k;
  int64_t rows, vocab;

  static TopProbabilities decode(const Tensor* tensors, const StateView*, const int32_t* attrs) {
    TopProbabilities a;
    a.logits = tensors[0];
    a.y = tensors[1];
    a.top_k = static_cast<int32_t>(attrs[0]);
    a.rows = a.logits.dims[0];
    a.vocab = a.logits.dims[1];
    return a;
  }
};

inline constexpr OperandInfo kEmbeddingOperands[] = {
    {"ids", OperandKind::i32, false, false, 1, {{1, -1}}},
    {"weight", OperandKind::matrix, false, false, 2, {{2, -1}, {3, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{1, -1}, {3, -1}}},
};
inline constexpr AttrInfo kEmbeddingAttrs[] = {
    {"scale", AttrKind::f32, 0},
};
inline constexpr OperandInfo kLinearOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{2, -1}, {3, -1}}},
    {"weight", OperandKind::matrix, false, false, 2, {{4, -1}, {3, -1}}},
    {"bias", OperandKind::f32, true, false, 1, {{4, -1}}},
    {"residual", OperandKind::f32, true, false, 2, {{2, -1}, {4, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{2, -1}, {4, -1}}},
};
inline constexpr AttrInfo kLinearAttrs[] = {
    {"scale", AttrKind::f32, 0},
    {"exact", AttrKind::boolean, 0},
};
inline constexpr OperandInfo kRmsNormOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{2, -1}, {3, 0}}},
    {"weight", OperandKind::f32, true, false, 1, {{0, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{2, -1}, {3, 0}}},
};
inline constexpr AttrInfo kRmsNormAttrs[] = {
    {"width", AttrKind::i32, 0},
    {"eps", AttrKind::f32, 0},
};
inline constexpr OperandInfo kGatedRmsNormOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{2, -1}, {3, 0}}},
    {"z", OperandKind::f32, false, false, 2, {{2, -1}, {3, 0}}},
    {"weight", OperandKind::f32, false, false, 1, {{3, 0}}},
    {"y", OperandKind::f32, false, true, 2, {{2, -1}, {3, 0}}},
};
inline constexpr AttrInfo kGatedRmsNormAttrs[] = {
    {"width", AttrKind::i32, 0},
    {"eps", AttrKind::f32, 0},
};
inline constexpr OperandInfo kAddOperands[] = {
    {"a", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"b", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{1, -1}, {2, -1}}},
};
inline constexpr AttrInfo kAddAttrs[] = {
    {"scale", AttrKind::f32, 0},
};
inline constexpr OperandInfo kActMulOperands[] = {
    {"gate", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"up", OperandKind::f32, true, false, 2, {{1, -1}, {2, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{1, -1}, {2, -1}}},
};
inline constexpr AttrInfo kActMulAttrs[] = {
    {"activation", AttrKind::enumeration, 4},
};
inline constexpr OperandInfo kRopeOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{3, -1}, {4, 0}}},
    {"position", OperandKind::i32, false, false, 1, {{3, -1}}},
    {"inv_freq", OperandKind::f32, false, false, 1, {{5, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{3, -1}, {4, 0}}},
};
inline constexpr AttrInfo kRopeAttrs[] = {
    {"head_dim", AttrKind::i32, 0},
    {"interleaved", AttrKind::boolean, 0},
    {"scale", AttrKind::f32, 0},
};
inline constexpr OperandInfo kFlashAttentionOperands[] = {
    {"q", OperandKind::f32, false, false, 2, {{4, -1}, {5, 0}}},
    {"k", OperandKind::f32, false, false, 2, {{4, -1}, {6, 0}}},
    {"v", OperandKind::f32, false, false, 2, {{4, -1}, {6, 0}}},
    {"sinks", OperandKind::f32, true, false, 1, {{5, -1}}},
    {"alibi", OperandKind::f32, true, false, 1, {{5, -1}}},
    {"cache", OperandKind::kv, false, false, 0, {}},
    {"y", OperandKind::f32, false, true, 2, {{4, -1}, {5, 0}}},
};
inline constexpr AttrInfo kFlashAttentionAttrs[] = {
    {"head_dim", AttrKind::i32, 0},
    {"scale", AttrKind::f32, 0},
    {"window", AttrKind::i32, 0},
    {"softcap", AttrKind::f32, 0},
};
inline constexpr OperandInfo kCausalConv1dOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"weight", OperandKind::f32, false, false, 2, {{2, -1}, {3, -1}}},
    {"bias", OperandKind::f32, true, false, 1, {{2, -1}}},
    {"window", OperandKind::conv, false, false, 0, {}},
    {"y", OperandKind::f32, false, true, 2, {{1, -1}, {2, -1}}},
};
inline constexpr AttrInfo kCausalConv1dAttrs[] = {
    {"activation", AttrKind::enumeration, 4},
};
inline constexpr OperandInfo kSelectiveScanOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{0, -1}, {1, -1}}},
    {"dt", OperandKind::f32, false, false, 2, {{0, -1}, {1, -1}}},
    {"dt_bias", OperandKind::f32, false, false, 1, {{1, -1}}},
    {"a", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"b", OperandKind::f32, false, false, 2, {{0, -1}, {2, -1}}},
    {"c", OperandKind::f32, false, false, 2, {{0, -1}, {2, -1}}},
    {"d", OperandKind::f32, false, false, 1, {{1, -1}}},
    {"z", OperandKind::f32, true, false, 2, {{0, -1}, {1, -1}}},
    {"h", OperandKind::scan, false, false, 0, {}},
    {"y", OperandKind::f32, false, true, 2, {{0, -1}, {1, -1}}},
};
inline constexpr OperandInfo kSsdOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{4, -1}, {5, 0}}},
    {"dt", OperandKind::f32, false, false, 2, {{4, -1}, {5, -1}}},
    {"dt_bias", OperandKind::f32, false, false, 1, {{5, -1}}},
    {"a", OperandKind::f32, false, false, 1, {{5, -1}}},
    {"b", OperandKind::f32, false, false, 2, {{4, -1}, {1, 6}}},
    {"c", OperandKind::f32, false, false, 2, {{4, -1}, {1, 6}}},
    {"d", OperandKind::f32, false, false, 1, {{5, -1}}},
    {"s", OperandKind::scan, false, false, 0, {}},
    {"y", OperandKind::f32, false, true, 2, {{4, -1}, {5, 0}}},
};
inline constexpr AttrInfo kSsdAttrs[] = {
    {"head_dim", AttrKind::i32, 0},
    {"groups", AttrKind::i32, 0},
    {"dt_min", AttrKind::f32, 0},
    {"dt_max", AttrKind::f32, 0},
};
inline constexpr OperandInfo kRouterOperands[] = {
    {"logits", OperandKind::f32, false, false, 2, {{4, -1}, {5, -1}}},
    {"bias", OperandKind::f32, true, false, 1, {{5, -1}}},
    {"ids", OperandKind::i32, false, true, 2, {{4, -1}, {0, -1}}},
    {"weights", OperandKind::f32, false, true, 2, {{4, -1}, {0, -1}}},
};
inline constexpr AttrInfo kRouterAttrs[] = {
    {"top_k", AttrKind::i32, 0},
    {"rule", AttrKind::enumeration, 3},
    {"renormalize", AttrKind::boolean, 0},
    {"scale", AttrKind::f32, 0},
};
inline constexpr OperandInfo kMoeOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"ids", OperandKind::i32, false, false, 2, {{1, -1}, {3, -1}}},
    {"weights", OperandKind::f32, false, false, 2, {{1, -1}, {3, -1}}},
    {"gate", OperandKind::matrix, false, false, 3, {{4, -1}, {5, -1}, {2, -1}}},
    {"up", OperandKind::matrix, true, false, 3, {{4, -1}, {5, -1}, {2, -1}}},
    {"down", OperandKind::matrix, false, false, 3, {{4, -1}, {2, -1}, {5, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{1, -1}, {2, -1}}},
};
inline constexpr AttrInfo kMoeAttrs[] = {
    {"activation", AttrKind::enumeration, 4},
};
inline constexpr OperandInfo kGatherRowsOperands[] = {
    {"x", OperandKind::f32, false, false, 2, {{0, -1}, {1, -1}}},
    {"index", OperandKind::i32, false, false, 1, {{2, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{2, -1}, {1, -1}}},
};
inline constexpr OperandInfo kSampleOperands[] = {
    {"logits", OperandKind::f32, false, false, 2, {{0, -1}, {1, -1}}},
    {"ids", OperandKind::i32, false, true, 1, {{0, -1}}},
};
inline constexpr OperandInfo kTopProbabilitiesOperands[] = {
    {"logits", OperandKind::f32, false, false, 2, {{1, -1}, {2, -1}}},
    {"y", OperandKind::f32, false, true, 2, {{1, -1}, {-2, 0}}},
};
inline constexpr AttrInfo kTopProbabilitiesAttrs[] = {
    {"top_k", AttrKind::i32, 0},
};

inline constexpr OpInfo kOps[] = {
    {"embedding", kEmbeddingOperands, kEmbeddingAttrs, 4},
    {"linear", kLinearOperands, kLinearAttrs, 5},
    {"rms_norm", kRmsNormOperands, kRmsNormAttrs, 4},
    {"gated_rms_norm", kGatedRmsNormOperands, kGatedRmsNormAttrs, 4},
    {"add", kAddOperands, kAddAttrs, 3},
    {"act_mul", kActMulOperands, kActMulAttrs, 3},
    {"rope", kRopeOperands, kRopeAttrs, 6},
    {"flash_attention", kFlashAttentionOperands, kFlashAttentionAttrs, 7},
    {"causal_conv1d", kCausalConv1dOperands, kCausalConv1dAttrs, 4},
    {"selective_scan", kSelectiveScanOperands, std::span<const AttrInfo>{}, 3},
    {"ssd", kSsdOperands, kSsdAttrs, 7},
    {"router", kRouterOperands, kRouterAttrs, 6},
    {"moe", kMoeOperands, kMoeAttrs, 6},
    {"gather_rows", kGatherRowsOperands, std::span<const AttrInfo>{}, 3},
    {"sample", kSampleOperands, std::span<const AttrInfo>{}, 2},
    {"top_probabilities", kTopProbabilitiesOperands, kTopProbabilitiesAttrs, 3},
};

}  // namespace crosscurrent
