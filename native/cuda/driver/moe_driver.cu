// Router and experts of few tokens: `moe_driver check | small | bench [--json FILE]`
//
// The references are float64 on the host, from the definitions in src/ops.
//
// Longer than 400 lines: cases, reference, checks and timing of a family are one program.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "../moe_decode.h"
#include "activation.h"
#include "harness.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251125;

struct Groups {
  Buffer<int32_t> counts, active, first, pairs;
  Groups(int64_t pairs, int64_t experts)
      : counts(2),
        active(std::max<int64_t>(1, std::min(experts, pairs))),
        first(std::min(experts, pairs) + 1),
        pairs(std::max<int64_t>(1, pairs)) {}
  operator ExpertGroups() const { return {counts.data(), active.data(), first.data(), pairs.data()}; }
  bool intact() const { return counts.intact() && active.intact() && first.intact() && pairs.intact(); }
};

struct Choice {
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

Choice reference(const std::vector<float>& logits, const std::vector<float>& bias, int64_t t, int64_t experts,
                 int32_t top_k, Rule rule, bool renormalize, double scale) {
  Choice choice;
  for (int64_t token = 0; token < t; ++token) {
    const float* row = logits.data() + token * experts;
    std::vector<double> score(static_cast<size_t>(experts));
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    for (size_t e = 0; e < score.size(); ++e)
      score[e] = rule == Rule::sigmoid ? sigmoid(row[e]) + (bias.empty() ? 0.0 : bias[e]) : row[e];
    std::vector<int32_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
    });
    std::vector<double> w;
    double total = 0;
    const double most = row[order[0]];
    for (int32_t k = 0; k < top_k; ++k)
      w.push_back(rule == Rule::sigmoid ? sigmoid(row[order[static_cast<size_t>(k)]])
                                        : std::exp(row[order[static_cast<size_t>(k)]] - most));
    if (rule == Rule::softmax_topk)
      for (int64_t e = 0; e < experts; ++e) total += std::exp(row[e] - most);
    else if (rule == Rule::topk_softmax)
      total = std::accumulate(w.begin(), w.end(), 0.0);
    if (rule != Rule::sigmoid)
      for (double& v : w) v /= total;
    const double sum = std::accumulate(w.begin(), w.end(), 0.0) + (rule == Rule::sigmoid ? 1e-20 : 0);
    for (int32_t k = 0; k < top_k; ++k) {
      choice.ids.push_back(order[static_cast<size_t>(k)]);
      choice.weights.push_back((renormalize ? w[static_cast<size_t>(k)] / sum : w[static_cast<size_t>(k)]) *
                               scale);
    }
  }
  return choice;
}

void check_groups(Report& report, const std::string& name, const Groups& groups,
                  const std::vector<int32_t>& ids, int64_t experts) {
  std::vector<int32_t> active, first, pairs;
  for (int32_t e = 0; e < experts; ++e) {
    const size_t before = pairs.size();
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == e) pairs.push_back(static_cast<int32_t>(i));
    if (pairs.size() == before) continue;
    active.push_back(e);
    first.push_back(static_cast<int32_t>(before));
  }
  first.push_back(static_cast<int32_t>(pairs.size()));
  const auto counts = groups.counts.download();
  report.expect(
      counts[0] == static_cast<int32_t>(active.size()) && counts[1] == static_cast<int32_t>(pairs.size()),
      name + ": counts");
  auto got_active = groups.active.download(), got_first = groups.first.download();
  got_active.resize(active.size());
  got_first.resize(first.size());
  report.same_bits(name + ": active", got_active, active);
  report.same_bits(name + ": first", got_first, first);
  report.same_bits(name + ": pairs", groups.pairs.download(), pairs);
  report.expect(groups.intact(), name + ": sentinels of groups");
}

void check_router(Report& report, Rng& rng) {
  struct Case {
    int64_t t, experts;
    int32_t top_k;
  };
  for (const Case& c : {Case{1, 8, 2}, Case{3, 7, 7}, Case{16, 128, 8}, Case{64, 64, 6}, Case{33, 160, 6},
                        Case{64, 512, 10}, Case{5, 300, 32}, Case{500, 128, 8}, Case{1, 1, 1}}) {
    for (const Rule rule : {Rule::softmax_topk, Rule::topk_softmax, Rule::sigmoid}) {
      for (const bool renormalize : {false, true}) {
        auto logits = rng.normals(c.t * c.experts, 2);
        if (rule != Rule::sigmoid)
          for (float& v : logits) v = std::round(v * 8) / 8;  // ties
        const auto bias = rule == Rule::sigmoid ? rng.normals(c.experts, 0.3) : std::vector<float>{};
        const std::string name = "router t " + std::to_string(c.t) + " experts " + std::to_string(c.experts) +
                                 " rule " + std::to_string(static_cast<int>(rule));
        Buffer<float> d_logits(logits), d_bias(bias), weights(c.t * c.top_k);
        Buffer<int32_t> ids(c.t * c.top_k);
        Groups groups(c.t * c.top_k, c.experts);
        const bool has_groups = c.t <= kMoeDecodeMaxTokens;
        const RouterArgs args{DType::f32,
                              d_logits.data(),
                              bias.empty() ? nullptr : d_bias.data(),
                              ids.data(),
                              weights.data(),
                              c.t,
                              c.experts,
                              c.top_k,
                              rule,
                              renormalize,
                              2.5f,
                              has_groups ? ExpertGroups(groups) : ExpertGroups{}};
        router(args, nullptr);
        const Choice expected = reference(logits, bias, c.t, c.experts, c.top_k, rule, renormalize, 2.5);
        report.same_bits(name + ": ids", ids.download(), expected.ids);
        report.compare(name, weights.download(), expected.weights, {.absolute = 1e-6, .relative = 1e-5});
        report.expect(ids.intact() && weights.intact(), name + ": sentinels");
        if (has_groups) check_groups(report, name, groups, expected.ids, c.experts);
        // bf16 logits: the same as their values in f32
        Buffer<bf16> short_logits(to_bf16(logits));
        Buffer<float> rounded(to_float(to_bf16(logits)));
        RouterArgs other = args;
        other.logits = rounded.data();
        router(other, nullptr);
        const auto ids_f32 = ids.download();
        const auto weights_f32 = weights.download();
        other.dtype = DType::bf16;
        other.logits = short_logits.data();
        router(other, nullptr);
        report.same_bits(name + ": bf16 ids", ids.download(), ids_f32);
        report.same_bits(name + ": bf16 weights", weights.download(), weights_f32);
      }
    }
  }
  std::vector<float> nans(8, NAN);
  nans[3] = 1;
  Buffer<float> logits(nans), weights(4);
  Buffer<int32_t> ids(4);
  router({DType::f32,
          logits.data(),
          nullptr,
          ids.data(),
          weights.data(),
          1,
          8,
          4,
          Rule::softmax_topk,
          true,
          1,
          {}},
         nullptr);
  auto chosen = ids.download();
  std::sort(chosen.begin(), chosen.end());
  report.expect(
      chosen[0] >= 0 && chosen[3] < 8 && std::adjacent_find(chosen.begin(), chosen.end()) == chosen.end(),
      "router: ids of NaN");
}

struct Experts {
  int64_t dim, ff, experts;
  bool is_gated;
  Activation activation;
  std::vector<float> gate, up, down;
  std::unique_ptr<Buffer<bf16>> d_gate, d_up, d_down;
  int group = 0;  // of 4-bit weights
  bool has_zero = false;
  ScaleType scale_type = ScaleType::f16;
  std::unique_ptr<Buffer<std::byte>> packed_in, packed_down;

  Experts(Rng& rng, int64_t dim_, int64_t ff_, int64_t experts_, bool gated, Activation act, int group_,
          bool has_zero_, ScaleType type)
      : dim(dim_),
        ff(ff_),
        experts(experts_),
        is_gated(gated),
        activation(act),
        group(group_),
        has_zero(has_zero_),
        scale_type(type) {
    const MoeDecodeInt4Args shapes = int4(MoeDecodeStep{.dim = dim, .ff = ff, .experts = experts});
    std::vector<std::byte> in, out;
    for (int64_t e = 0; e < experts; ++e) {
      add_packed(rng, shapes.in_shape(), in,
                 [&](int64_t row, float value) { (row < ff ? gate : up).push_back(value); });
      add_packed(rng, shapes.down_shape(), out, [&](int64_t, float value) { down.push_back(value); });
    }
    if (!is_gated) up.resize(gate.size());
    packed_in = std::make_unique<Buffer<std::byte>>(in);
    packed_down = std::make_unique<Buffer<std::byte>>(out);
  }

  Experts(Rng& rng, int64_t dim_, int64_t ff_, int64_t experts_, bool gated, Activation act)
      : dim(dim_), ff(ff_), experts(experts_), is_gated(gated), activation(act) {
    const auto fill = [&](std::vector<float>& host, std::unique_ptr<Buffer<bf16>>& device, int64_t n,
                          int64_t k) {
      const auto values = rng.normals_bf16(experts * n * k, 1 / std::sqrt(static_cast<double>(k)));
      host = to_float(values);
      device = std::make_unique<Buffer<bf16>>(values);
    };
    fill(gate, d_gate, ff, dim);
    fill(up, d_up, ff, dim);
    fill(down, d_down, dim, ff);
  }

  MoeDecodeInt4Args int4(const MoeDecodeStep& step) const {
    return {step,
            packed_in ? packed_in->data() : nullptr,
            packed_down ? packed_down->data() : nullptr,
            is_gated,
            group,
            has_zero,
            scale_type};
  }
  MoeDecodeArgs plain(const MoeDecodeStep& step) const {
    return {step, d_gate->data(), is_gated ? d_up->data() : nullptr, d_down->data()};
  }

 private:
  // One matrix behind the others; `value` gets what each weight stands for.
  template <class Value>
  static void add_packed(Rng& rng, const PackedShape& s, std::vector<std::byte>& all, const Value& value) {
    const int64_t groups = s.k / s.group;
    std::vector<uint8_t> q = rng.bytes(s.n * s.k), zeros(static_cast<size_t>(s.has_zero ? s.n * groups : 0));
    for (uint8_t& v : q) v &= 15;
    for (uint8_t& v : zeros) v = static_cast<uint8_t>(rng.below(17));
    const double size = 0.2 / std::sqrt(static_cast<double>(s.k));
    std::vector<float> scales = rng.uniforms(s.n * groups, 0.5 * size, 1.5 * size);
    for (float& v : scales)  // as the format keeps them
      v = s.scale_type == ScaleType::bf16 ? __bfloat162float(__float2bfloat16(v))
                                          : __half2float(__float2half(v));
    for (int64_t row = 0; row < s.n; ++row) {
      for (int64_t column = 0; column < s.k; ++column) {
        const auto g = static_cast<size_t>(row * groups + column / s.group);
        const int zero = s.has_zero ? zeros[g] : 8;
        value(row, static_cast<float>(q[static_cast<size_t>(row * s.k + column)] - zero) * scales[g]);
      }
    }
    const auto packed = pack(s, {.q = q, .scales = scales, .zeros = zeros});
    all.insert(all.end(), packed.begin(), packed.end());
  }
};

struct Tokens {
  std::vector<bf16> x;
  std::vector<float> weights;
  std::vector<int32_t> ids;
  int64_t t;
  int32_t top_k;
};

Tokens some_tokens(Rng& rng, const Experts& e, int64_t t, int32_t top_k) {
  Tokens tokens{rng.normals_bf16(t * e.dim), rng.uniforms(t * top_k, 0, 0.5), {}, t, top_k};
  for (int64_t token = 0; token < t; ++token) {
    std::vector<int32_t> all(static_cast<size_t>(e.experts));
    std::iota(all.begin(), all.end(), 0);
    for (int32_t k = 0; k < top_k; ++k) {
      std::swap(all[static_cast<size_t>(k)], all[static_cast<size_t>(k + rng.below(e.experts - k))]);
      tokens.ids.push_back(all[static_cast<size_t>(k)]);
    }
  }
  return tokens;
}

// The groups come from logits that make the router choose these ids.
std::vector<bf16> run(Report& report, const Experts& e, const Tokens& tokens, const std::string& name) {
  std::vector<float> logits(static_cast<size_t>(tokens.t * e.experts), 0.0f);
  for (int64_t token = 0; token < tokens.t; ++token)
    for (int32_t k = 0; k < tokens.top_k; ++k)
      logits[static_cast<size_t>(token * e.experts +
                                 tokens.ids[static_cast<size_t>(token * tokens.top_k + k)])] =
          static_cast<float>(100 - k);
  Groups groups(tokens.t * tokens.top_k, e.experts);
  Buffer<float> d_logits(logits), weights(tokens.t * tokens.top_k);
  Buffer<int32_t> ids(tokens.t * tokens.top_k);
  router({DType::f32, d_logits.data(), nullptr, ids.data(), weights.data(), tokens.t, e.experts, tokens.top_k,
          Rule::topk_softmax, false, 1, groups},
         nullptr);
  report.same_bits(name + ": ids", ids.download(), tokens.ids);
  weights.upload(tokens.weights);
  Buffer<bf16> x(tokens.x), y(tokens.t * e.dim);
  const MoeDecodeStep step{x.data(), ids.data(), weights.data(), groups,       y.data(),    tokens.t,
                           e.dim,    e.ff,       e.experts,      tokens.top_k, e.activation};
  WorkspaceBuffer workspace(moe_decode_workspace(step));
  if (e.group == 0)
    moe_decode(e.plain(step), workspace, nullptr);
  else
    moe_decode(e.int4(step), workspace, nullptr);
  auto result = y.download();
  report.expect(y.intact() && workspace.intact(), name + ": sentinels");
  return result;
}

void check_experts(Report& report, Rng& rng, const Experts& e, int32_t top_k,
                   const std::vector<int64_t>& sizes) {
  for (const int64_t t : sizes) {
    const Tokens tokens = some_tokens(rng, e, t, top_k);
    const std::string name =
        "moe t " + std::to_string(t) + " dim " + std::to_string(e.dim) + " ff " + std::to_string(e.ff) +
        (e.is_gated ? " gated" : "") + " act " + std::to_string(static_cast<int>(e.activation)) +
        (e.group ? " int4 g" + std::to_string(e.group) : "") + (e.has_zero ? " zeros" : "");
    const auto y = run(report, e, tokens, name);
    const auto x = to_float(tokens.x);
    std::vector<double> expected(static_cast<size_t>(t * e.dim), 0.0);
    for (int64_t pair = 0; pair < t * top_k; ++pair) {
      const int64_t token = pair / top_k, expert = tokens.ids[static_cast<size_t>(pair)];
      std::vector<float> h;
      for (int64_t i = 0; i < e.ff; ++i) {
        double gate = 0, up = 0;
        for (int64_t j = 0; j < e.dim; ++j) {
          const double v = x[static_cast<size_t>(token * e.dim + j)];
          gate += v * e.gate[static_cast<size_t>((expert * e.ff + i) * e.dim + j)];
          up += v * e.up[static_cast<size_t>((expert * e.ff + i) * e.dim + j)];
        }
        h.push_back(static_cast<float>(act(e.activation, gate) * (e.is_gated ? up : 1)));
      }
      h = to_float(to_bf16(h));
      for (int64_t i = 0; i < e.dim; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < e.ff; ++j)
          sum += double{h[static_cast<size_t>(j)]} *
                 e.down[static_cast<size_t>((expert * e.dim + i) * e.ff + j)];
        expected[static_cast<size_t>(token * e.dim + i)] += tokens.weights[static_cast<size_t>(pair)] * sum;
      }
    }
    report.compare(name, y, expected, {.absolute = 2e-2, .relative = 2e-2, .norm = 5e-3});
    report.same_bits(name + ": again", run(report, e, tokens, name), y);
    for (int64_t token = 0; token < t; token += t > 8 ? 13 : 1) {
      const Tokens one{{tokens.x.begin() + token * e.dim, tokens.x.begin() + (token + 1) * e.dim},
                       {tokens.weights.begin() + token * top_k, tokens.weights.begin() + (token + 1) * top_k},
                       {tokens.ids.begin() + token * top_k, tokens.ids.begin() + (token + 1) * top_k},
                       1,
                       top_k};
      report.same_bits(name + ": alone", run(report, e, one, name),
                       std::vector<bf16>(y.begin() + token * e.dim, y.begin() + (token + 1) * e.dim));
    }
  }
}

void check_errors(Report& report) {
  Buffer<float> f(64);
  Buffer<int32_t> i(64);
  const RouterArgs good{DType::f32, f.data(),           nullptr, i.data(), f.data(), 1, 8,
                        2,          Rule::softmax_topk, true,    1,        {}};
  const auto bad = [&](const char* words, auto change) {
    RouterArgs args = good;
    change(args);
    report.expect_error(words, Code::invalid_argument, words, [&] { router(args, nullptr); });
  };
  bad("router: dtype", [](RouterArgs& a) { a.dtype = DType::f16; });
  bad("router: experts", [](RouterArgs& a) { a.experts = 513; });
  bad("router: top_k", [](RouterArgs& a) { a.top_k = 9; });
  bad("router: top_k", [](RouterArgs& a) { a.top_k = 0; });
  bad("router: t", [](RouterArgs& a) { a.t = -1; });
  bad("router: logits", [](RouterArgs& a) { a.logits = nullptr; });
  bad("router: ids", [](RouterArgs& a) { a.ids = nullptr; });
  bad("router: t with groups", [&](RouterArgs& a) {
    a.groups.counts = i.data();
    a.t = 65;
  });
  bad("router: groups.pairs", [&](RouterArgs& a) { a.groups = {i.data(), i.data(), i.data(), nullptr}; });
  RouterArgs none = good;
  none.t = 0;
  router(none, nullptr);
  Buffer<bf16> b(1024);
  const ExpertGroups groups{i.data(), i.data(), i.data(), i.data()};
  const MoeDecodeStep step{b.data(), i.data(), f.data(), groups, b.data(), 1, 32, 32, 1, 1, Activation::silu};
  const MoeDecodeArgs moe{step, b.data(), b.data(), b.data()};
  const auto bad_moe = [&](const char* words, auto change) {
    MoeDecodeArgs args = moe;
    change(args);
    report.expect_error(words, Code::invalid_argument, words, [&] { moe_decode(args, {}, nullptr); });
  };
  bad_moe("moe_decode: t", [](MoeDecodeArgs& a) { a.t = 65; });
  bad_moe("moe_decode: dim", [](MoeDecodeArgs& a) { a.dim = 40; });
  bad_moe("moe_decode: ff", [](MoeDecodeArgs& a) { a.ff = 16; });
  bad_moe("moe_decode: top_k", [](MoeDecodeArgs& a) { a.top_k = 2; });
  bad_moe("t * top_k", [](MoeDecodeArgs& a) {
    a.t = 64;
    a.experts = 64;
    a.top_k = 32;
  });
  bad_moe("moe_decode: x", [](MoeDecodeArgs& a) { a.x += 1; });
  bad_moe("moe_decode: gate", [](MoeDecodeArgs& a) { a.gate = nullptr; });
  bad_moe("groups.first", [](MoeDecodeArgs& a) { a.groups.first = nullptr; });
  bad_moe("workspace", [](MoeDecodeArgs&) {});
  MoeDecodeArgs empty = moe;
  empty.t = 0;
  moe_decode(empty, {}, nullptr);
  const auto* const data = reinterpret_cast<const std::byte*>(b.data());
  MoeDecodeInt4Args int4{step, data, data, true, 64, false, ScaleType::f16};
  int4.dim = int4.ff = 64;
  const auto bad_int4 = [&](const char* words, auto change) {
    MoeDecodeInt4Args args = int4;
    change(args);
    report.expect_error(words, Code::invalid_argument, words, [&] { moe_decode(args, {}, nullptr); });
  };
  bad_int4("moe_decode: dim", [](MoeDecodeInt4Args& a) { a.dim = 96; });
  bad_int4("moe_decode: ff", [](MoeDecodeInt4Args& a) { a.ff = 32; });
  bad_int4("moe_decode: group", [](MoeDecodeInt4Args& a) { a.group = 48; });
  bad_int4("moe_decode: group", [](MoeDecodeInt4Args& a) { a.group = 128; });
  bad_int4("moe_decode: in", [](MoeDecodeInt4Args& a) { a.in += 16; });
  bad_int4("moe_decode: down", [](MoeDecodeInt4Args& a) { a.down = nullptr; });
  bad_int4("moe_decode: ids", [](MoeDecodeInt4Args& a) { a.ids = nullptr; });
  bad_int4("workspace", [](MoeDecodeInt4Args&) {});
  int4.t = 0;
  moe_decode(int4, {}, nullptr);
}

void check_small(Report& report) {
  Rng rng(kSeed);
  const Experts e(rng, 64, 32, 8, true, Activation::silu);
  check_experts(report, rng, e, 2, {1, 5, 17});
  check_experts(report, rng, Experts(rng, 128, 64, 8, true, Activation::silu, 64, true, ScaleType::f16), 2,
                {1, 5, 17});
}

void check(Report& report) {
  check_small(report);
  if (report.small()) return;
  Rng rng(kSeed + 1);
  check_router(report, rng);
  check_experts(report, rng, Experts(rng, 256, 96, 16, true, Activation::silu), 4, {1, 2, 8, 9, 16, 33, 64});
  check_experts(report, rng, Experts(rng, 96, 416, 4, false, Activation::relu2), 2, {1, 7, 64});
  check_experts(report, rng, Experts(rng, 128, 160, 3, true, Activation::gelu), 3, {1, 12});
  check_experts(report, rng, Experts(rng, 32, 64, 1, true, Activation::none), 1, {1, 20});
  check_experts(report, rng, Experts(rng, 256, 128, 16, true, Activation::silu, 128, false, ScaleType::f16),
                4, {1, 2, 8, 9, 16, 33, 64});
  check_experts(report, rng, Experts(rng, 192, 448, 4, false, Activation::relu2, 64, true, ScaleType::bf16),
                2, {1, 7, 64});
  check_experts(report, rng, Experts(rng, 128, 192, 3, true, Activation::gelu, 32, false, ScaleType::bf16), 3,
                {1, 12, 40});
  check_experts(report, rng, Experts(rng, 64, 64, 1, true, Activation::none, 32, true, ScaleType::f16), 1,
                {1, 20});
  check_experts(report, rng, Experts(rng, 576, 320, 5, true, Activation::silu, 64, false, ScaleType::f16), 2,
                {3, 30});
  check_errors(report);
}

// Random routing: experts are drawn anew for each of a few sets of weights.
void bench_moe(Report& report, int64_t t, int64_t dim, int64_t ff, int64_t experts, int32_t top_k,
               bool is_int4 = false) {
  const MoeDecodeInt4Args packed{
      {.dim = dim, .ff = ff, .experts = experts}, nullptr, nullptr, true, 128, false, ScaleType::bf16};
  const int64_t in_bytes = is_int4 ? packed.in_shape().bytes() : 4 * dim * ff;  // of an expert
  const int64_t down_bytes = is_int4 ? packed.down_shape().bytes() : 2 * dim * ff;
  Rng rng(kSeed);
  Memory weights(static_cast<size_t>(experts * (in_bytes + down_bytes)));
  const auto noise = rng.normals_bf16(1 << 20, 0.02);
  for (size_t at = 0; at < weights.bytes(); at += 2 << 20)
    check_cuda(cudaMemcpy(weights.data() + at, noise.data(), std::min<size_t>(2 << 20, weights.bytes() - at),
                          cudaMemcpyHostToDevice),
               "cudaMemcpy");
  struct Set {
    Buffer<float> logits, weights;
    Buffer<int32_t> ids;
    Groups groups;
    Set(Rng& r, int64_t t_, int64_t e, int32_t k)
        : logits(r.normals(t_ * e)), weights(t_ * k), ids(t_ * k), groups(t_ * k, e) {}
  };
  constexpr int kSets = 20;
  std::vector<std::unique_ptr<Set>> sets;
  double read = 0;
  const auto route = [&](Set& set, cudaStream_t stream) {
    router({DType::f32, set.logits.data(), nullptr, set.ids.data(), set.weights.data(), t, experts, top_k,
            Rule::softmax_topk, true, 1, set.groups},
           stream);
  };
  for (int i = 0; i < kSets; ++i) {
    sets.push_back(std::make_unique<Set>(rng, t, experts, top_k));
    route(*sets.back(), nullptr);
    read += sets.back()->groups.counts.download()[0] * static_cast<double>(in_bytes + down_bytes) / kSets;
  }
  Buffer<bf16> x(rng.normals_bf16(t * dim)), y(t * dim);
  const auto step = [&](Set& set) {
    return MoeDecodeStep{x.data(), set.ids.data(), set.weights.data(), set.groups, y.data(), t, dim, ff,
                         experts,  top_k,          Activation::silu};
  };
  WorkspaceBuffer workspace(moe_decode_workspace(step(*sets[0])));
  const auto multiply = [&](Set& set, cudaStream_t stream) {
    if (is_int4) {
      MoeDecodeInt4Args args = packed;
      static_cast<MoeDecodeStep&>(args) = step(set);
      args.in = weights.data();
      args.down = weights.data() + experts * in_bytes;
      return moe_decode(args, workspace, stream);
    }
    const auto* const base = reinterpret_cast<const bf16*>(weights.data());
    moe_decode(MoeDecodeArgs{step(set), base, base + experts * dim * ff, base + 2 * experts * dim * ff},
               workspace, stream);
  };
  const std::string label = "E" + std::to_string(experts) + " " + std::to_string(dim) + "->" +
                            std::to_string(ff) + " top-" + std::to_string(top_k) + " T" + std::to_string(t) +
                            (is_int4 ? " int4 g128" : "");
  const auto measure = [&](const char* kernel, const std::function<void(cudaStream_t, int)>& body) {
    const Timing timing = time_graph(kSets, body);
    report.measured({kernel, label, timing.median_ms, timing.p5_ms, timing.p95_ms,
                     read / timing.median_ms * 1e-6, "gb_s", ceilings().read_gb_s});
  };
  measure("moe_decode", [&](cudaStream_t stream, int i) { multiply(*sets[static_cast<size_t>(i)], stream); });
  measure("router + moe_decode", [&](cudaStream_t stream, int i) {
    route(*sets[static_cast<size_t>(i)], stream);
    multiply(*sets[static_cast<size_t>(i)], stream);
  });
}

void bench(Report& report) {
  for (const bool is_int4 : {false, true}) {
    for (const int64_t t : {1, 2, 4, 8, 16, 64}) bench_moe(report, t, 2048, 768, 128, 8, is_int4);
    for (const int64_t t : {1, 16}) bench_moe(report, t, 2048, 1408, 64, 6, is_int4);
    for (const int64_t t : {1, 16}) bench_moe(report, t, 4096, 14336, 8, 2, is_int4);
  }
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  namespace driver = crosscurrent::cuda::driver;
  return driver::main(argc, argv, driver::check, driver::bench);
}
