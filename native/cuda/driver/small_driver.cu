// Norms, rope, act_mul, embedding and sample: `small_driver check | small | bench [--json FILE]`
//
// The references are float64 on the host, from the definitions in src/ops.
//
// Longer than 400 lines: cases, reference, checks and timing of a family are one program.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "../../philox.h"
#include "../act_mul.h"
#include "../embedding.h"
#include "../gated_rms_norm.h"
#include "../rms_norm.h"
#include "../rope.h"
#include "../sample.h"
#include "../sample_philox.cuh"
#include "elements.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251125;

template <class T>
constexpr Tolerance kTolerance = sizeof(T) == 2 ? Tolerance{.absolute = 1e-6, .relative = 8e-3}
                                                : Tolerance{.absolute = 2e-6, .relative = 2e-5};

template <class T>
std::vector<double> normed(const std::vector<double>& h, const std::vector<float>& weight, int64_t width,
                           double eps) {
  std::vector<double> y(h.size());
  for (size_t at = 0; at < h.size(); at += static_cast<size_t>(width)) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i)
      squares += h[at + static_cast<size_t>(i)] * h[at + static_cast<size_t>(i)];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (size_t i = at; i < at + static_cast<size_t>(width); ++i)
      y[i] = h[i] * scale * (weight.empty() ? 1.0 : weight[i % weight.size()]);
  }
  return y;
}

template <class T>
void check_norms(Report& report, Rng& rng, int64_t rows, int64_t groups, int64_t width) {
  const std::string name = std::string(dtype_info(kDtype<T>).name) + " " + std::to_string(rows) + "x" +
                           std::to_string(groups) + "x" + std::to_string(width);
  const int64_t count = rows * groups * width;
  const float eps = 1e-5f;
  const auto x = as_type<T>(rng.normals(count)), z = as_type<T>(rng.normals(count));
  const auto weight = rng.normals(width), wide = rng.normals(groups * width);
  Buffer<T> d_x(x), d_z(z), y(count), sum(count);
  Buffer<float> d_weight(weight), d_wide(wide);
  const auto fx = as_floats(x), fz = as_floats(z);
  std::vector<double> plain(fx.begin(), fx.end()), gated(fx.size());
  std::vector<float> added(fx.size());
  for (size_t i = 0; i < fx.size(); ++i) {
    gated[i] = fx[i] * silu(fz[i]);
    added[i] = fx[i] + fz[i];
  }
  RmsNormArgs args{kDtype<T>, d_x.data(), nullptr, nullptr, d_weight.data(),
                   y.data(),  rows,       groups,  width,   eps};
  rms_norm(args, nullptr);
  report.compare("rms_norm " + name, y.download(), normed<T>(plain, weight, width, eps), kTolerance<T>);
  args.weight = nullptr;
  rms_norm(args, nullptr);
  report.compare("rms_norm without weight " + name, y.download(), normed<T>(plain, {}, width, eps),
                 kTolerance<T>);
  args.weight = d_weight.data();
  args.residual = d_z.data();
  args.sum = sum.data();
  rms_norm(args, nullptr);
  const auto sums = as_type<T>(added);
  report.same_bits("rms_norm sum " + name, sum.download(), sums);
  const auto fused = y.download();
  Buffer<T> d_sums(sums);
  args.x = d_sums.data();
  args.residual = nullptr;
  rms_norm(args, nullptr);
  report.same_bits("rms_norm with residual " + name, fused, y.download());
  const GatedRmsNormArgs gate{kDtype<T>, d_x.data(), d_z.data(), d_wide.data(),  y.data(),
                              rows,      groups,     width,      groups * width, eps};
  gated_rms_norm(gate, nullptr);
  report.compare("gated_rms_norm " + name, y.download(), normed<T>(gated, wide, width, eps), kTolerance<T>);
  report.expect(y.intact() && sum.intact() && d_x.intact(), name + ": sentinels");
}

template <class T>
void check_act_mul(Report& report, Rng& rng, int64_t rows, int64_t ff, int64_t stride) {
  const auto both = as_type<T>(rng.normals(rows * stride, 2));  // gate and up side by side where they fit
  const auto f = as_floats(both);
  Buffer<T> d_both(both), y(rows * ff);
  for (const Activation activation :
       {Activation::none, Activation::silu, Activation::gelu, Activation::relu2}) {
    for (const bool has_up : {false, true}) {
      if (has_up && stride < 2 * ff) continue;
      const ActMulArgs args{kDtype<T>, d_both.data(), has_up ? d_both.data() + ff : nullptr,
                            y.data(),  rows,          ff,
                            stride,    stride,        activation};
      act_mul(args, nullptr);
      std::vector<double> expected;
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < ff; ++i) {
          const double g = f[static_cast<size_t>(row * stride + i)],
                       up = has_up ? f[static_cast<size_t>(row * stride + ff + i)] : 1;
          const double a = activation == Activation::silu ? silu(g)
                           : activation == Activation::gelu
                               ? 0.5 * g * (1 + std::tanh(0.7978845608028654 * (g + 0.044715 * g * g * g)))
                           : activation == Activation::relu2 ? (g > 0 ? g * g : 0)
                                                             : g;
          expected.push_back(a * up);
        }
      report.compare("act_mul " + std::to_string(rows) + "x" + std::to_string(ff) + " act " +
                         std::to_string(static_cast<int>(activation)),
                     y.download(), expected, {.absolute = 1e-5, .relative = sizeof(T) == 2 ? 8e-3 : 1e-4});
      report.expect(y.intact(), "act_mul: sentinels");
    }
  }
}

template <class T>
void check_rope(Report& report, Rng& rng, int64_t t, int64_t heads, int32_t head_dim, int64_t half,
                bool interleaved) {
  const int64_t width = heads * head_dim;
  const auto x = as_type<T>(rng.normals(t * width));
  const auto f = as_floats(x);
  std::vector<int32_t> position;
  std::vector<float> inv_freq;
  for (int64_t i = 0; i < t; ++i) position.push_back(static_cast<int32_t>(rng.below(1 << 20)));
  for (int64_t i = 0; i < half; ++i)
    inv_freq.push_back(
        static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half))));
  Buffer<T> d_x(x), y(t * width);
  Buffer<int32_t> d_position(position);
  Buffer<float> d_freq(inv_freq);
  RopeArgs args{kDtype<T>, d_x.data(), d_position.data(), d_freq.data(), y.data(), t, heads, half,
                width,     width,      head_dim,          interleaved,   1.25f};
  rope(args, nullptr);
  std::vector<double> expected(f.begin(), f.end());
  for (int64_t token = 0; token < t; ++token)
    for (int64_t head = 0; head < heads; ++head)
      for (int64_t i = 0; i < half; ++i) {
        // the angle is an f32 product by definition
        const double angle =
            static_cast<float>(position[static_cast<size_t>(token)]) * inv_freq[static_cast<size_t>(i)];
        const size_t at = static_cast<size_t>(token * width + head * head_dim);
        const size_t a = at + static_cast<size_t>(interleaved ? 2 * i : i),
                     b = at + static_cast<size_t>(interleaved ? 2 * i + 1 : i + half);
        expected[a] = (f[a] * std::cos(angle) - f[b] * std::sin(angle)) * 1.25;
        expected[b] = (f[b] * std::cos(angle) + f[a] * std::sin(angle)) * 1.25;
      }
  const std::string name =
      "rope " + std::to_string(heads) + "x" + std::to_string(head_dim) + " half " + std::to_string(half);
  const auto out = y.download();
  report.compare(name, out, expected,
                 {.absolute = sizeof(T) == 2 ? 1e-4 : 4e-6, .relative = sizeof(T) == 2 ? 8e-3 : 1e-5});
  args.y = d_x.data();
  rope(args, nullptr);
  report.same_bits(name + " in place", d_x.download(), out);
  report.expect(y.intact() && d_x.intact(), name + ": sentinels");
}

template <class T>
void check_embedding(Report& report, Rng& rng, int64_t t, int64_t vocab, int64_t dim) {
  const auto weight = rng.normals_bf16(vocab * dim);
  const auto f = to_float(weight);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < t; ++i) ids.push_back(static_cast<int32_t>(rng.below(vocab)));
  if (t > 2) {
    ids[1] = -1;
    ids[2] = static_cast<int32_t>(vocab);
  }
  Buffer<bf16> d_weight(weight);
  Buffer<int32_t> d_ids(ids);
  Buffer<T> y(t * dim);
  embedding({d_ids.data(), d_weight.data(), kDtype<T>, y.data(), t, vocab, dim, 1.5f}, nullptr);
  std::vector<double> expected;
  for (const int32_t id : ids)
    for (int64_t i = 0; i < dim; ++i)
      expected.push_back(id < 0 || id >= vocab ? NAN : 1.5 * f[static_cast<size_t>(id * dim + i)]);
  report.compare("embedding " + std::to_string(t) + "x" + std::to_string(dim), y.download(), expected,
                 {.relative = sizeof(T) == 2 ? 4e-3 : 1e-7});
  report.expect(y.intact(), "embedding: sentinels");
}

// The definition, over a sorted row.
int32_t choose(std::vector<float> logits, const SampleOptions& o, const std::vector<int32_t>& history,
               const std::vector<int32_t>& bias_ids, const std::vector<float>& bias) {
  for (size_t i = 0; i < bias.size(); ++i) logits[static_cast<size_t>(bias_ids[i])] += bias[i];
  for (size_t id = 0; id < logits.size(); ++id) {
    const auto count = std::count(history.begin(), history.end(), static_cast<int32_t>(id));
    if (count == 0) continue;
    float& l = logits[id];
    l = l > 0 ? l / o.repetition_penalty : l * o.repetition_penalty;
    l -= o.presence_penalty + o.frequency_penalty * static_cast<float>(count);
  }
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto at = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  if (std::any_of(logits.begin(), logits.end(), [](float l) { return std::isnan(l); })) return -1;
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
  const float max = at(order[0]);
  if (!std::isfinite(max)) return -1;
  if (o.temperature == 0) return order[0];
  size_t kept = o.top_k > 0 ? std::min<size_t>(order.size(), static_cast<size_t>(o.top_k)) : order.size();
  const auto weight = [&](size_t i) { return std::exp((at(order[i]) - max) / o.temperature); };
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += weight(i);
  double sum = 0;
  size_t count = 0;
  while (count < kept &&
         (count == 0 || ((o.top_p >= 1 || sum < o.top_p * total) && weight(count) >= o.min_p)))
    sum += weight(count++);
  const double target = philox_uniform(o.seed_low, o.seed_high, o.position) * sum;
  double running = 0;
  for (size_t i = 0; i < count; ++i) {
    running += weight(i);
    if (running > target) return order[i];
  }
  return order[count - 1];
}

__global__ void philox_kernel(uint32_t* words) {
  words[threadIdx.x] = philox_word(0x12345678u * threadIdx.x, 0x9ABCDEF0u ^ threadIdx.x,
                                   static_cast<int32_t>(threadIdx.x * 77));
}

void check_sample(Report& report, Rng& rng, int64_t vocab, int rows) {
  std::vector<float> logits;
  std::vector<SampleOptions> options;
  std::vector<int32_t> history_first{0}, history, bias_first{0}, bias_ids, expected;
  std::vector<float> bias;
  for (int row = 0; row < rows; ++row) {
    auto l = rng.normals(vocab, 3);
    if (row % 3 == 1)
      for (float& v : l) v = std::round(v);  // many ties
    if (row % 7 == 3)
      for (float& v : l)
        if (rng.below(4) == 0) v = -INFINITY;
    SampleOptions o{1,
                    0,
                    1,
                    0,
                    1,
                    0,
                    0,
                    static_cast<uint32_t>(rng.next()),
                    static_cast<uint32_t>(rng.next()),
                    static_cast<int32_t>(rng.below(1 << 20))};
    o.temperature = row % 4 == 0 ? 0.0f : static_cast<float>(0.3 + rng.uniform());
    if (row % 2 == 0) o.top_k = static_cast<int32_t>(1 + rng.below(40));
    if (row % 3 == 0) o.top_p = static_cast<float>(rng.uniform());
    if (row % 5 == 0) o.min_p = static_cast<float>(0.3 * rng.uniform());
    std::vector<int32_t> my_history, my_ids;
    std::vector<float> my_bias;
    if (row % 6 == 1) {
      o.repetition_penalty = 1.3f;
      o.presence_penalty = 0.5f;
      o.frequency_penalty = 0.25f;
      for (int i = 0; i < 30; ++i)
        my_history.push_back(static_cast<int32_t>(rng.below(std::min<int64_t>(vocab, 20))));
    }
    if (row % 6 == 2)
      for (int i = 0; i < 10; ++i) {
        my_ids.push_back(static_cast<int32_t>(rng.below(vocab)));
        my_bias.push_back(static_cast<float>(rng.normal() * 4));
      }
    if (row == 11) l[static_cast<size_t>(vocab / 2)] = NAN;
    if (row == 12) std::fill(l.begin(), l.end(), -INFINITY);
    if (row == 13) l[0] = INFINITY;
    expected.push_back(choose(l, o, my_history, my_ids, my_bias));
    logits.insert(logits.end(), l.begin(), l.end());
    history.insert(history.end(), my_history.begin(), my_history.end());
    bias_ids.insert(bias_ids.end(), my_ids.begin(), my_ids.end());
    bias.insert(bias.end(), my_bias.begin(), my_bias.end());
    history_first.push_back(static_cast<int32_t>(history.size()));
    bias_first.push_back(static_cast<int32_t>(bias.size()));
    options.push_back(o);
  }
  Buffer<float> d_logits(logits), d_bias(bias);
  Buffer<SampleOptions> d_options(options);
  Buffer<int32_t> d_history_first(history_first), d_history(history), d_bias_first(bias_first),
      d_bias_ids(bias_ids), ids(rows);
  SampleArgs args{d_logits.data(),
                  ids.data(),
                  d_options.data(),
                  d_history_first.data(),
                  d_history.data(),
                  d_bias_first.data(),
                  d_bias_ids.data(),
                  d_bias.data(),
                  rows,
                  vocab,
                  vocab};
  WorkspaceBuffer workspace(sample_workspace(args));
  const std::string name = "sample of " + std::to_string(vocab);
  sample(args, workspace, nullptr);
  report.same_bits(name, ids.download(), expected);
  sample(args, workspace, nullptr);
  report.same_bits(name + ": again", ids.download(), expected);
  report.expect(ids.intact() && workspace.intact() && d_logits.intact(), name + ": sentinels");
  // alone
  for (int row = 0; row < rows; row += 5) {
    SampleArgs one = args;
    one.rows = 1;
    one.logits += row * vocab;
    one.options += row;
    one.history_first += row;
    one.bias_first += row;
    sample(one, workspace, nullptr);
    report.expect(ids.download()[0] == expected[static_cast<size_t>(row)], name + ": alone");
  }
}

void check_philox(Report& report) {
  Buffer<uint32_t> words(256);
  launch(philox_kernel, {.grid = dim3(1), .block = dim3(256)}, words.data());
  std::vector<uint32_t> expected;
  for (uint32_t i = 0; i < 256; ++i)
    expected.push_back(philox4x32({{i * 77, 0, 0, 0}}, 0x12345678u * i, 0x9ABCDEF0u ^ i).words[0]);
  report.same_bits("philox", words.download(), expected);
}

void check_errors(Report& report) {
  Buffer<float> f(64);
  Buffer<int32_t> i(64);
  const auto bad = [&](const char* words, const std::function<void()>& body) {
    report.expect_error(words, Code::invalid_argument, words, body);
  };
  RmsNormArgs norm{DType::f32, f.data(), nullptr, nullptr, nullptr, f.data(), 1, 1, 8, 1e-5f};
  bad("rms_norm: width", [=]() mutable {
    norm.width = 40000;
    rms_norm(norm, nullptr);
  });
  bad("rms_norm: groups", [=]() mutable {
    norm.groups = 0;
    rms_norm(norm, nullptr);
  });
  bad("rms_norm: rows", [=]() mutable {
    norm.rows = -1;
    rms_norm(norm, nullptr);
  });
  bad("rms_norm: dtype", [=]() mutable {
    norm.dtype = DType::f16;
    rms_norm(norm, nullptr);
  });
  bad("rms_norm: x", [=]() mutable {
    norm.x = nullptr;
    rms_norm(norm, nullptr);
  });
  bad("rms_norm: sum", [=]() mutable {
    norm.residual = norm.x;
    rms_norm(norm, nullptr);
  });
  norm.rows = 0;
  rms_norm(norm, nullptr);
  GatedRmsNormArgs gated{DType::f32, f.data(), f.data(), f.data(), f.data(), 1, 1, 8, 8, 1e-5f};
  bad("gated_rms_norm: z_stride", [=]() mutable {
    gated.z_stride = 7;
    gated_rms_norm(gated, nullptr);
  });
  bad("gated_rms_norm: weight", [=]() mutable {
    gated.weight = nullptr;
    gated_rms_norm(gated, nullptr);
  });
  RopeArgs rotation{DType::f32, f.data(), i.data(), f.data(), f.data(), 1, 1, 4, 8, 8, 8, false, 1};
  bad("rope: half", [=]() mutable {
    rotation.half = 5;
    rope(rotation, nullptr);
  });
  bad("rope: head_dim", [=]() mutable {
    rotation.head_dim = 1;
    rope(rotation, nullptr);
  });
  bad("rope: x_stride", [=]() mutable {
    rotation.x_stride = 4;
    rope(rotation, nullptr);
  });
  bad("rope: position", [=]() mutable {
    rotation.position = nullptr;
    rope(rotation, nullptr);
  });
  ActMulArgs act{DType::f32, f.data(), nullptr, f.data(), 1, 8, 8, 8, Activation::silu};
  bad("act_mul: ff", [=]() mutable {
    act.ff = 0;
    act_mul(act, nullptr);
  });
  bad("act_mul: gate_stride", [=]() mutable {
    act.gate_stride = 1;
    act_mul(act, nullptr);
  });
  bad("act_mul: y", [=]() mutable {
    act.y = nullptr;
    act_mul(act, nullptr);
  });
  EmbeddingArgs table{i.data(), nullptr, DType::f32, f.data(), 1, 8, 8, 1};
  bad("embedding: weight", [=] { embedding(table, nullptr); });
  bad("embedding: vocab", [=]() mutable {
    table.vocab = 0;
    embedding(table, nullptr);
  });
  SampleArgs draw{f.data(), i.data(), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, 1, 8, 8};
  bad("sample: options", [=] { sample(draw, {}, nullptr); });
  bad("sample: logits_stride", [=]() mutable {
    draw.logits_stride = 7;
    sample(draw, {}, nullptr);
  });
  bad("sample: vocab", [=]() mutable {
    draw.vocab = 0;
    sample(draw, {}, nullptr);
  });
  bad("sample: history", [=, &i]() mutable {
    draw.options = reinterpret_cast<const SampleOptions*>(i.data());
    draw.history_first = i.data();
    sample(draw, {}, nullptr);
  });
  draw.rows = 0;
  sample(draw, {}, nullptr);
}

template <class T>
void check_small_of(Report& report, Rng& rng) {
  check_norms<T>(report, rng, 2, 3, 128);
  check_norms<T>(report, rng, 2, 1, 77);
  check_act_mul<T>(report, rng, 3, 24, 48);
  check_act_mul<T>(report, rng, 3, 7, 14);
  check_rope<T>(report, rng, 2, 2, 64, 32, false);
  check_rope<T>(report, rng, 2, 3, 20, 8, true);
  check_embedding<T>(report, rng, 4, 10, 72);
  check_embedding<T>(report, rng, 4, 10, 7);
}

void check_small(Report& report) {
  Rng rng(kSeed);
  check_small_of<bf16>(report, rng);
  check_small_of<float>(report, rng);
  check_philox(report);
  check_sample(report, rng, 100, 14);
}

template <class T>
void check_of(Report& report, Rng& rng) {
  for (const int64_t width : {1, 31, 32, 64, 256, 1000, 4096, 8192, 8200})
    check_norms<T>(report, rng, 3, 2, width);
  check_norms<T>(report, rng, 2, 1, 32768);
  check_norms<T>(report, rng, 1, 1, 32767);
  check_act_mul<T>(report, rng, 5, 1408, 2816);
  check_rope<T>(report, rng, 5, 32, 128, 64, false);
  check_rope<T>(report, rng, 3, 8, 256, 32, true);
  check_embedding<T>(report, rng, 9, 1000, 2048);
}

void check(Report& report) {
  check_small(report);
  if (report.small()) return;
  Rng rng(kSeed + 1);
  check_of<bf16>(report, rng);
  check_of<float>(report, rng);
  for (const int64_t vocab : {15, 1024, 5003, 32000}) check_sample(report, rng, vocab, 24);
  check_sample(report, rng, 151936, 16);
  check_errors(report);
}

void bench_case(Report& report, const char* kernel, const std::string& label, double bytes, int sets,
                const std::function<void(cudaStream_t, int)>& body) {
  const Timing timing = time_graph(sets, body);
  report.measured({kernel, label, timing.median_ms, timing.p5_ms, timing.p95_ms,
                   bytes / timing.median_ms * 1e-6, "gb_s", ceilings().copy_gb_s});
}

void bench(Report& report) {
  Rng rng(kSeed);
  for (const int64_t rows : {1, 64, 8192}) {
    constexpr int64_t kDim = 4096;
    const size_t bytes = static_cast<size_t>(rows * kDim) * sizeof(bf16);
    const int sets = rows > 1000 ? rotation(4 * bytes) : 20;
    const std::string label = std::to_string(rows) + "x" + std::to_string(kDim);
    Memory memory(4 * bytes * static_cast<size_t>(sets));
    memory.fill(0x3C);
    const auto at = [&](int set, int which) {
      return memory.data() + bytes * static_cast<size_t>(4 * set + which);
    };
    Buffer<float> weight(rng.normals(kDim)), freq(rng.uniforms(64, 0, 1));
    std::vector<int32_t> position(static_cast<size_t>(rows));
    std::iota(position.begin(), position.end(), 0);
    Buffer<int32_t> d_position(position);
    const double one = static_cast<double>(bytes);
    bench_case(report, "rms_norm + residual", label, 4 * one, sets, [&](cudaStream_t stream, int s) {
      rms_norm({DType::bf16, at(s, 0), at(s, 1), at(s, 2), weight.data(), at(s, 3), rows, 1, kDim, 1e-5f},
               stream);
    });
    bench_case(report, "gated_rms_norm", label, 3 * one, sets, [&](cudaStream_t stream, int s) {
      gated_rms_norm({DType::bf16, at(s, 0), at(s, 1), weight.data(), at(s, 3), rows, 1, kDim, kDim, 1e-5f},
                     stream);
    });
    bench_case(report, "act_mul", label, 3 * one, sets, [&](cudaStream_t stream, int s) {
      act_mul({DType::bf16, at(s, 0), at(s, 1), at(s, 3), rows, kDim, kDim, kDim, Activation::silu}, stream);
    });
    bench_case(report, "rope", label, 2 * one, sets, [&](cudaStream_t stream, int s) {
      rope({DType::bf16, at(s, 0), d_position.data(), freq.data(), at(s, 3), rows, 32, 64, kDim, kDim, 128,
            false, 1},
           stream);
    });
  }
  constexpr int64_t kVocab = 151936;
  for (const int rows : {1, 32}) {
    Buffer<float> logits(rng.normals(rows * kVocab, 3));
    Buffer<int32_t> ids(rows);
    for (const bool greedy : {true, false}) {
      SampleOptions o{greedy ? 0.0f : 0.8f, 50, 0.9f, 0.02f, 1, 0, 0, 1, 2, 3};
      Buffer<SampleOptions> options(std::vector<SampleOptions>(static_cast<size_t>(rows), o));
      bench_case(report, greedy ? "sample greedy" : "sample top-k top-p min-p",
                 std::to_string(rows) + "x" + std::to_string(kVocab), 4.0 * rows * kVocab, 1,
                 [&](cudaStream_t stream, int) {
                   sample({logits.data(), ids.data(), options.data(), nullptr, nullptr, nullptr, nullptr,
                           nullptr, rows, kVocab, kVocab},
                          {}, stream);
                 });
    }
  }
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  namespace driver = crosscurrent::cuda::driver;
  return driver::main(argc, argv, driver::check, driver::bench);
}
