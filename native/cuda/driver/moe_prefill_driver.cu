// Experts of many tokens: `moe_prefill_driver check | small | bench [--json FILE]`
//
// The reference is float64 on the host, from the definition in src/ops/moe.ts; hidden values are rounded to
// bf16, as the kernels hand them on.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "../moe_prefill.h"
#include "activation.h"
#include "harness.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20261127;

struct Experts {
  int64_t dim, ff, experts;
  bool is_gated;
  Activation activation;
  std::vector<bf16> gate, up, down;
  Buffer<bf16> d_gate, d_up, d_down;

  static Experts make(Rng& rng, int64_t dim, int64_t ff, int64_t experts, bool gated = true,
                      Activation activation = Activation::silu) {
    const auto weights = [&](int64_t k) {
      return rng.normals_bf16(experts * dim * ff, 1 / std::sqrt(static_cast<double>(k)));
    };
    const auto gate = weights(dim), up = weights(dim), down = weights(ff);
    return {dim,
            ff,
            experts,
            gated,
            activation,
            gate,
            up,
            down,
            Buffer(gate),
            Buffer<bf16>(up),
            Buffer<bf16>(down)};
  }
};

enum class Routing : uint8_t { uniform, skewed, one_expert };

struct Tokens {
  int64_t t;
  int32_t top_k;
  std::vector<bf16> x;
  std::vector<float> weights;
  std::vector<int32_t> ids;

  // `skewed`: a quarter of the experts get most; `one_expert`: the first choice of all is the last expert.
  static Tokens make(Rng& rng, const Experts& e, int64_t t, int32_t top_k, Routing routing) {
    Tokens tokens{t, top_k, rng.normals_bf16(t * e.dim), rng.uniforms(t * top_k, 0, 0.5), {}};
    for (int64_t token = 0; token < t; ++token) {
      std::vector<int32_t> all(static_cast<size_t>(e.experts));
      std::iota(all.begin(), all.end(), 0);
      if (routing == Routing::one_expert) std::swap(all.front(), all.back());
      for (int32_t k = routing == Routing::one_expert ? 1 : 0; k < top_k; ++k) {
        int64_t left = e.experts - k;
        if (routing == Routing::skewed && rng.below(8) != 0) left = std::max<int64_t>(1, e.experts / 4 - k);
        std::swap(all[static_cast<size_t>(k)], all[static_cast<size_t>(k + rng.below(left))]);
      }
      tokens.ids.insert(tokens.ids.end(), all.begin(), all.begin() + top_k);
    }
    return tokens;
  }
};

struct Call {
  Buffer<bf16> x, y;
  Buffer<int32_t> ids, loads;
  Buffer<float> weights;
  MoePrefillArgs args;

  static Call make(const Experts& e, const Tokens& tokens) {
    Call c{Buffer<bf16>(tokens.x),     Buffer<bf16>(tokens.t * e.dim), Buffer<int32_t>(tokens.ids),
           Buffer<int32_t>(e.experts), Buffer<float>(tokens.weights),  {}};
    c.args = {c.x.data(),
              c.ids.data(),
              c.weights.data(),
              e.d_gate.data(),
              e.is_gated ? e.d_up.data() : nullptr,
              e.d_down.data(),
              c.y.data(),
              c.loads.data(),
              tokens.t,
              e.dim,
              e.ff,
              e.experts,
              tokens.top_k,
              e.activation};
    return c;
  }
};

std::vector<double> reference(const Experts& e, const Tokens& tokens) {
  const auto x = to_float(tokens.x), gate = to_float(e.gate), up = to_float(e.up), down = to_float(e.down);
  std::vector<double> y(static_cast<size_t>(tokens.t * e.dim), 0.0);
  const auto row = [](const std::vector<float>& from, int64_t at, int64_t width) {
    return from.data() + at * width;
  };
  const auto dot = [](const float* a, const float* b, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += double{a[i]} * b[i];
    return sum;
  };
  for (int64_t pair = 0; pair < tokens.t * tokens.top_k; ++pair) {
    const int64_t token = pair / tokens.top_k, expert = tokens.ids[static_cast<size_t>(pair)];
    if (expert < 0 || expert >= e.experts) continue;
    std::vector<float> h;
    for (int64_t i = 0; i < e.ff; ++i) {
      const double left =
          act(e.activation, dot(row(x, token, e.dim), row(gate, expert * e.ff + i, e.dim), e.dim));
      const double right =
          e.is_gated ? dot(row(x, token, e.dim), row(up, expert * e.ff + i, e.dim), e.dim) : 1;
      h.push_back(static_cast<float>(left * right));
    }
    h = to_float(to_bf16(h));
    for (int64_t i = 0; i < e.dim; ++i)
      y[static_cast<size_t>(token * e.dim + i)] += tokens.weights[static_cast<size_t>(pair)] *
                                                   dot(h.data(), row(down, expert * e.dim + i, e.ff), e.ff);
  }
  return y;
}

std::vector<int32_t> loads_of(const Experts& e, const Tokens& tokens) {
  std::vector<int32_t> loads(static_cast<size_t>(e.experts), 0);
  for (const int32_t id : tokens.ids)
    if (id >= 0 && id < e.experts) ++loads[static_cast<size_t>(id)];
  return loads;
}

void check_tokens(Report& report, const Experts& e, const Tokens& tokens, const std::string& label) {
  const std::vector<double> expected = reference(e, tokens);
  for (const MoePrefillTile& tile : {moe_prefill_tile(current_arch()), kMoeMmaTile}) {
    const std::string name = "t " + std::to_string(tokens.t) + " top " + std::to_string(tokens.top_k) +
                             " experts " + std::to_string(e.experts) + " dim " + std::to_string(e.dim) +
                             " ff " + std::to_string(e.ff) + label + (tile.has_wgmma ? "" : " mma");
    const Call call = Call::make(e, tokens);
    WorkspaceBuffer workspace(moe_prefill_workspace(call.args, tile));
    std::vector<bf16> first;
    for (int again = 0; again < 2; ++again) {
      moe_prefill(call.args, tile, workspace, nullptr);
      const std::vector<bf16> y = call.y.download();
      if (again == 0) {
        report.compare(name, y, expected, {.absolute = 2e-2, .relative = 2e-2, .norm = 6e-3});
        report.same_bits(name + ": loads", call.loads.download(), loads_of(e, tokens));
        first = y;
      } else {
        report.same_bits(name + ": again", y, first);
      }
    }
    report.expect(call.y.intact() && call.loads.intact() && workspace.intact(), name + ": sentinels");
  }
}

void check_routing(Report& report, Rng& rng, const Experts& e, int32_t top_k, Routing routing,
                   const std::vector<int64_t>& sizes) {
  const char* const labels[] = {"", " skewed", " one expert"};
  for (const int64_t t : sizes)
    check_tokens(report, e, Tokens::make(rng, e, t, top_k, routing), labels[static_cast<int>(routing)]);
}

// Every width of wgmma: one expert with as many tokens as two blocks hold, and one fewer.
void check_widths(Report& report, Rng& rng) {
  const Experts e = Experts::make(rng, 72, 40, 1);
  for (int width = moe_wgmma_width(1); width <= kMoeMostWidth; width = moe_wgmma_width(width + 1))
    check_routing(report, rng, e, 1, Routing::uniform, {2 * width - 1, 2 * width});
}

// An id that names no expert adds nothing and harms nothing.
void check_strays(Report& report, Rng& rng) {
  const Experts e = Experts::make(rng, 64, 64, 4);
  Tokens tokens = Tokens::make(rng, e, 100, 2, Routing::uniform);
  tokens.ids[7] = -1, tokens.ids[50] = 4, tokens.ids[51] = INT32_MAX, tokens.ids[199] = INT32_MIN;
  check_tokens(report, e, tokens, " strays");
}

void check_errors(Report& report, Rng& rng) {
  const Experts e = Experts::make(rng, 64, 32, 4);
  const Tokens tokens = Tokens::make(rng, e, 8, 2, Routing::uniform);
  const Call call = Call::make(e, tokens);
  const auto bad = [&](const char* words, auto change) {
    MoePrefillArgs args = call.args;
    change(args);
    report.expect_error(words, Code::invalid_argument, words, [&] { moe_prefill(args, {}, nullptr); });
  };
  bad("moe_prefill: t:", [](MoePrefillArgs& a) { a.t = -1; });
  bad("moe_prefill: t:", [](MoePrefillArgs& a) { a.t = 1 << 24; });
  bad("moe_prefill: experts", [](MoePrefillArgs& a) { a.experts = 513; });
  bad("moe_prefill: top_k", [](MoePrefillArgs& a) { a.top_k = 5; });
  bad("moe_prefill: dim", [](MoePrefillArgs& a) { a.dim = 60; });
  bad("moe_prefill: ff", [](MoePrefillArgs& a) { a.ff = 0; });
  bad("moe_prefill: x", [](MoePrefillArgs& a) { a.x = nullptr; });
  bad("moe_prefill: gate", [](MoePrefillArgs& a) { a.gate += 4; });
  bad("moe_prefill: down", [](MoePrefillArgs& a) { a.down = nullptr; });
  bad("moe_prefill: y", [](MoePrefillArgs& a) { a.y += 1; });
  bad("moe_prefill: workspace", [](MoePrefillArgs&) {});
  MoePrefillArgs empty = call.args;
  empty.t = 0, empty.x = nullptr;
  moe_prefill(empty, {}, nullptr);
  check_cuda(cudaDeviceSynchronize(), "no tokens");
  report.expect(moe_prefill_workspace(empty) == 0, "no tokens: workspace");
}

void check_small(Report& report) {
  Rng rng(kSeed);
  check_routing(report, rng, Experts::make(rng, 136, 72, 4), 2, Routing::uniform, {1, 37});
  check_routing(report, rng, Experts::make(rng, 64, 64, 2, false, Activation::relu2), 1, Routing::one_expert,
                {400});
}

void check(Report& report) {
  check_small(report);
  if (report.small()) return;
  Rng rng(kSeed + 1);
  check_widths(report, rng);
  const Experts many = Experts::make(rng, 128, 96, 128);
  check_routing(report, rng, many, 8, Routing::uniform, {1, 2, 33, 701});
  check_routing(report, rng, many, 8, Routing::skewed, {65, 512});
  check_routing(report, rng, many, 1, Routing::one_expert, {3, 1025});
  const Experts few = Experts::make(rng, 264, 328, 4);  // several tiles of weights, none full
  check_routing(report, rng, few, 1, Routing::uniform, {7, 257});
  check_routing(report, rng, few, 4, Routing::uniform, {130, 400});
  check_routing(report, rng, few, 2, Routing::skewed, {999});
  // more groups than a run has, and more pairs than the sort's shortest stretches hold
  check_routing(report, rng, Experts::make(rng, 40, 32, 3), 2, Routing::one_expert, {6001, 40000});
  for (const Activation activation :
       {Activation::silu, Activation::gelu, Activation::relu2, Activation::none}) {
    for (const bool gated : {false, true})
      check_routing(report, rng, Experts::make(rng, 72, 304, 5, gated, activation), 3, Routing::uniform,
                    {211});
  }
  check_routing(report, rng, Experts::make(rng, 8, 8, 512), 32, Routing::uniform, {77});
  check_strays(report, rng);
  check_errors(report, rng);
}

void bench_case(Report& report, int64_t t, int64_t dim, int64_t ff, int64_t experts, int32_t top_k) {
  Rng rng(kSeed);
  const int64_t matrix = experts * dim * ff;
  const auto noise = rng.normals_bf16(1 << 20, 0.02);
  Buffer<bf16> weights(3 * matrix);
  for (int64_t at = 0; at < weights.size(); at += 1 << 20) {
    const auto bytes = static_cast<size_t>(2 * std::min<int64_t>(1 << 20, weights.size() - at));
    check_cuda(cudaMemcpy(weights.data() + at, noise.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  const Experts shape{dim,
                      ff,
                      experts,
                      true,
                      Activation::silu,
                      {},
                      {},
                      {},
                      Buffer<bf16>(0),
                      Buffer<bf16>(0),
                      Buffer<bf16>(0)};
  constexpr int kSets = 4;  // of tokens; the weights alone exceed L2
  std::vector<std::unique_ptr<Call>> calls;
  double pairs = 0;
  for (int i = 0; i < kSets; ++i) {
    calls.push_back(
        std::make_unique<Call>(Call::make(shape, Tokens::make(rng, shape, t, top_k, Routing::uniform))));
    MoePrefillArgs& args = calls.back()->args;
    args.gate = weights.data(), args.up = args.gate + matrix, args.down = args.up + matrix;
    pairs += static_cast<double>(t * top_k) / kSets;
  }
  WorkspaceBuffer workspace(moe_prefill_workspace(calls[0]->args));
  check_cuda(cudaDeviceSynchronize(), "uploads");  // the timed stream does not wait for the default one
  const Timing timing = time_graph(kSets,
                                   [&](cudaStream_t stream, int i) {
                                     moe_prefill(calls[static_cast<size_t>(i)]->args, workspace, stream);
                                   },
                                   {.launches = 4, .samples = 100, .warm_up = 5});
  report.measured({"moe_prefill",
                   "E" + std::to_string(experts) + " " + std::to_string(dim) + "->" + std::to_string(ff) +
                       " top-" + std::to_string(top_k) + " T" + std::to_string(t),
                   timing.median_ms, timing.p5_ms, timing.p95_ms,
                   6 * pairs * static_cast<double>(dim * ff) / timing.median_ms * 1e-9, "tflop_s",
                   ceilings().mma_tflop_s});
}

void bench(Report& report) {
  for (const int64_t t : {4096, 8192, 1024, 256}) bench_case(report, t, 2048, 768, 128, 8);
  bench_case(report, 4096, 2048, 1408, 64, 6);
  for (const int64_t t : {4096, 1024, 256}) bench_case(report, t, 4096, 14336, 8, 2);
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  namespace driver = crosscurrent::cuda::driver;
  return driver::main(argc, argv, driver::check, driver::bench);
}
