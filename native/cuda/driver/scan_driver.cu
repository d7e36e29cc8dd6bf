// selective_scan and causal_conv1d, prefill: `scan_driver check | bench [--json FILE]`
//
// Longer than 400 lines: cases, reference, checks and timing of a family are one program.
#include <algorithm>
#include <cmath>

#include "../causal_conv1d.h"
#include "../selective_scan.h"
#include "elements.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251125;

// The tokens of a step; slots in reverse, one more slot than needed.
struct Ragged {
  std::vector<int32_t> first{0}, slot, length;
  int64_t t = 0;

  Ragged(const std::vector<int>& counts, const std::vector<int>& lengths) {
    for (size_t i = 0; i < counts.size(); ++i) {
      t += counts[i];
      first.push_back(static_cast<int32_t>(t));
      slot.push_back(static_cast<int32_t>(counts.size() - i));
      length.push_back(lengths[i % lengths.size()]);
    }
  }
  int seqs() const { return static_cast<int>(slot.size()); }
};

struct DeviceSequences {
  Buffer<int32_t> first, slot, length;
  int64_t t;
  explicit DeviceSequences(const Ragged& r) : first(r.first), slot(r.slot), length(r.length), t(r.t) {}
  operator PrefillSequences() const {
    return {first.data(), slot.data(), length.data(), static_cast<int32_t>(slot.size()), t};
  }
};

template <class T>
struct ScanCase {
  int64_t channels, states, pad;  // pad: elements between rows of x, dt, z and y
  bool has_z;
  Ragged ragged;
  std::vector<float> x, dt, z, b, c, dt_bias, a, d, h;
  int64_t row() const { return channels + pad; }

  ScanCase(Rng& rng, int64_t channels, int64_t states, int64_t pad, bool has_z, const Ragged& ragged)
      : channels(channels), states(states), pad(pad), has_z(has_z), ragged(ragged) {
    const auto rounded = [](std::vector<float> v) { return as_floats(as_type<T>(v)); };
    x = rounded(rng.normals(ragged.t * row()));
    dt = rounded(rng.normals(ragged.t * row(), 1.5));
    z = rounded(rng.normals(ragged.t * row(), 2.0));
    b = rounded(rng.normals(ragged.t * states));
    c = rounded(rng.normals(ragged.t * states));
    dt_bias = rng.uniforms(channels, -7, -1);
    a = rng.uniforms(channels * states, 0, 2.8);
    for (float& v : a) v = -std::exp(v);
    d = rng.normals(channels);
    h = rng.normals((ragged.seqs() + 1) * channels * states);
  }

  struct Result {
    std::vector<double> y, h;
  };
  Result reference() const {
    Result r{std::vector<double>(static_cast<size_t>(ragged.t * channels)), {}};
    r.h.assign(h.begin(), h.end());
    for (int s = 0; s < ragged.seqs(); ++s) {
      for (int64_t ch = 0; ch < channels; ++ch) {
        double* state = r.h.data() + (ragged.slot[s] * channels + ch) * states;
        if (ragged.length[s] == 0 && ragged.t > 0) std::fill_n(state, states, 0.0);
        for (int64_t t = ragged.first[s]; t < ragged.first[s + 1]; ++t) {
          const double delta = log1p_exp(double{dt[t * row() + ch]} + dt_bias[ch]), xv = x[t * row() + ch];
          double y = d[ch] * xv;
          for (int64_t n = 0; n < states; ++n) {
            state[n] = std::exp(delta * a[ch * states + n]) * state[n] + delta * xv * b[t * states + n];
            y += state[n] * c[t * states + n];
          }
          const double zv = z[t * row() + ch];
          r.y[t * channels + ch] = has_z ? y * zv * sigmoid(zv) : y;
        }
      }
    }
    return r;
  }
};

template <class T>
struct ScanBuffers {
  Buffer<T> x, dt, z, b, c, y;
  Buffer<float> dt_bias, a, d, h;
  DeviceSequences sequences;
  SelectiveScanArgs args{};

  explicit ScanBuffers(const ScanCase<T>& s)
      : x(as_type<T>(s.x)),
        dt(as_type<T>(s.dt)),
        z(as_type<T>(s.z)),
        b(as_type<T>(s.b)),
        c(as_type<T>(s.c)),
        y(static_cast<int64_t>(s.x.size())),
        dt_bias(s.dt_bias),
        a(s.a),
        d(s.d),
        h(s.h),
        sequences(s.ragged) {
    args = {kDtype<T>,      x.data(), dt.data(),
            dt_bias.data(), a.data(), b.data(),
            c.data(),       d.data(), s.has_z ? z.data() : nullptr,
            h.data(),       y.data(), s.row(),
            s.row(),        s.states, s.states,
            s.row(),        s.row(),  sequences,
            s.channels,     s.states};
  }
  // [t, channels] without the padding.
  std::vector<T> outputs(const ScanCase<T>& s) const {
    const auto all = y.download();
    std::vector<T> out;
    for (int64_t t = 0; t < s.ragged.t; ++t)
      out.insert(out.end(), all.begin() + t * s.row(), all.begin() + t * s.row() + s.channels);
    return out;
  }
  bool intact() const { return y.intact() && h.intact() && x.intact(); }
};

template <class T>
void check_scan(Report& report, Rng& rng, const std::string& what, int64_t channels, int64_t states,
                int64_t pad, bool has_z, const Ragged& ragged) {
  const ScanCase<T> s(rng, channels, states, pad, has_z, ragged);
  ScanBuffers<T> buffers(s);
  selective_scan(buffers.args, nullptr);
  const auto reference = s.reference();
  const auto y = buffers.outputs(s);
  const auto h = buffers.h.download();
  const bool wide = sizeof(T) == 4;
  report.compare(
      what + " y", y, reference.y,
      {.absolute = wide ? 2e-4 : 2e-2, .relative = wide ? 1e-4 : 1e-2, .norm = wide ? 1e-5 : 4e-3});
  report.compare(what + " h", h, reference.h, {.absolute = 2e-5, .relative = 1e-4, .norm = 1e-5});
  report.expect(buffers.intact(), what + ": sentinels");
  // no bit depends on the tile
  for (const SelectiveScanTile& tile : kScanTiles) {
    ScanBuffers<T> other(s);
    selective_scan(other.args, tile, nullptr);
    const std::string with =
        what + " tile " + std::to_string(tile.channels) + "x" + std::to_string(tile.splits);
    report.same_bits(with + " y", other.outputs(s), y);
    report.same_bits(with + " h", other.h.download(), h);
  }
}

// A prompt in two calls, cut at a multiple of kScanSteps, and beside other sequences: the same bits.
void check_scan_cuts(Report& report, Rng& rng) {
  const int64_t channels = 40, states = 16;
  const ScanCase<bf16> whole(rng, channels, states, 0, true, Ragged({100}, {0}));
  ScanBuffers<bf16> one(whole);
  selective_scan(one.args, nullptr);
  ScanBuffers<bf16> two(whole);
  for (const auto& [begin, end] : {std::pair{0, 56}, std::pair{56, 100}}) {
    Ragged part({end - begin}, {begin});
    DeviceSequences sequences(part);
    SelectiveScanArgs args = two.args;
    args.sequences = sequences;
    const auto skip = [&](const void* p, int64_t width) {
      return static_cast<const bf16*>(p) + begin * width;
    };
    args.x = skip(args.x, channels), args.dt = skip(args.dt, channels), args.z = skip(args.z, channels);
    args.b = skip(args.b, states), args.c = skip(args.c, states);
    args.y = static_cast<bf16*>(args.y) + begin * channels;
    selective_scan(args, nullptr);
    check_cuda(cudaDeviceSynchronize(), "cut");
  }
  report.same_bits("scan in two calls y", two.y.download(), one.y.download());
  report.same_bits("scan in two calls h", two.h.download(), one.h.download());

  ScanCase<bf16> batch(rng, channels, states, 0, true, Ragged({33, 100, 5}, {0}));
  const auto put = [](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
    std::copy(from.begin(), from.end(), to.begin() + 33 * width);
  };
  put(batch.x, whole.x, channels), put(batch.dt, whole.dt, channels), put(batch.z, whole.z, channels);
  put(batch.b, whole.b, states), put(batch.c, whole.c, states);
  batch.a = whole.a, batch.d = whole.d, batch.dt_bias = whole.dt_bias;
  ScanBuffers<bf16> three(batch);
  selective_scan(three.args, nullptr);
  auto y = three.y.download();
  y = {y.begin() + 33 * channels, y.begin() + 133 * channels};
  report.same_bits("scan beside others y", y, one.y.download());
}

void check_scan_errors(Report& report, Rng& rng) {
  const ScanCase<bf16> s(rng, 8, 16, 0, true, Ragged({4}, {0}));
  ScanBuffers<bf16> buffers(s);
  const auto bad = [&](const char* words, auto change) {
    SelectiveScanArgs args = buffers.args;
    change(args);
    report.expect_error(std::string("scan error ") + words, Code::invalid_argument, words,
                        [&] { selective_scan(args, nullptr); });
  };
  bad("dtype", [](auto& a) { a.dtype = DType::f16; });
  bad("channels", [](auto& a) { a.channels = 0; });
  bad("states", [](auto& a) { a.states = 17; });
  bad("seqs", [](auto& a) { a.sequences.seqs = -1; });
  bad("t", [](auto& a) { a.sequences.t = -1; });
  bad("x", [](auto& a) { a.x = nullptr; });
  bad("x", [](auto& a) { a.x = static_cast<const char*>(a.x) + 1; });
  bad("dt_bias", [](auto& a) { a.dt_bias = nullptr; });
  bad("h", [](auto& a) { a.h = nullptr; });
  bad("y_stride", [](auto& a) { a.y_stride = 7; });
  bad("first", [](auto& a) { a.sequences.first = nullptr; });
  SelectiveScanArgs none = buffers.args;
  none.x = nullptr;
  none.sequences.seqs = 0;
  selective_scan(none, nullptr);
  report.expect(true, "empty batch");
}

// --- causal_conv1d ---

template <class T>
struct ConvCase {
  int64_t channels;
  int kernel;
  bool has_bias;
  ConvActivation activation;
  Ragged ragged;
  std::vector<float> x, weight, bias, window;

  ConvCase(Rng& rng, int64_t channels, int kernel, bool has_bias, ConvActivation activation,
           const Ragged& ragged)
      : channels(channels), kernel(kernel), has_bias(has_bias), activation(activation), ragged(ragged) {
    x = as_floats(as_type<T>(rng.normals(ragged.t * channels)));
    weight = rng.normals(channels * kernel, 0.5);
    bias = rng.normals(channels);
    window = rng.normals((ragged.seqs() + 1) * (kernel - 1) * channels);
  }
  double act(double v) const {
    switch (activation) {
      case ConvActivation::silu: return v * sigmoid(v);
      case ConvActivation::gelu:
        return 0.5 * v * (1 + std::tanh(0.7978845608028654 * (v + 0.044715 * v * v * v)));
      case ConvActivation::relu2: return v > 0 ? v * v : 0;
      default: return v;
    }
  }
  struct Result {
    std::vector<double> y, window;
  };
  Result reference() const {
    Result r{std::vector<double>(static_cast<size_t>(ragged.t * channels)), {}};
    r.window.assign(window.begin(), window.end());
    for (int s = 0; s < ragged.seqs(); ++s) {
      const int64_t begin = ragged.first[s], end = ragged.first[s + 1], kept = kernel - 1;
      if (begin == end) continue;
      for (int64_t ch = 0; ch < channels; ++ch) {
        const auto input = [&](int64_t t) -> double {
          if (t >= begin) return x[t * channels + ch];
          if (ragged.length[s] == 0) return 0;
          return window[(ragged.slot[s] * kept + kept + t - begin) * channels + ch];
        };
        for (int64_t t = begin; t < end; ++t) {
          double sum = has_bias ? bias[ch] : 0;
          for (int j = 0; j < kernel; ++j) sum += double{weight[ch * kernel + j]} * input(t - kept + j);
          r.y[t * channels + ch] = act(sum);
        }
        for (int64_t i = 0; i < kept; ++i)
          r.window[(ragged.slot[s] * kept + i) * channels + ch] = input(end - kept + i);
      }
    }
    return r;
  }
};

template <class T>
void check_conv(Report& report, Rng& rng, const std::string& what, int64_t channels, int kernel,
                bool has_bias, ConvActivation activation, const Ragged& ragged) {
  const ConvCase<T> s(rng, channels, kernel, has_bias, activation, ragged);
  Buffer<T> x(as_type<T>(s.x)), y(ragged.t * channels);
  Buffer<float> weight(s.weight), bias(s.bias), window(s.window);
  DeviceSequences sequences(ragged);
  const CausalConv1dArgs args{kDtype<T>,     x.data(), weight.data(), has_bias ? bias.data() : nullptr,
                              window.data(), y.data(), channels,      channels,
                              channels,      kernel,   activation};
  causal_conv1d(args, sequences, nullptr);
  const auto reference = s.reference();
  const bool wide = sizeof(T) == 4;
  report.compare(what + " y", y.download(), reference.y,
                 {.absolute = wide ? 1e-5 : 2e-2, .relative = wide ? 1e-5 : 1e-2});
  report.compare(what + " window", window.download(), reference.window, {.absolute = 0});
  report.expect(y.intact() && window.intact(), what + ": sentinels");
}

void check(Report& report) {
  Rng rng(kSeed);
  const std::vector<std::vector<int>> all_lengths = {{1}, {7}, {8}, {9}, {31, 33, 0, 1, 127, 129}, {700}};
  const std::vector<std::vector<int>> few_lengths = {{9}, {50, 0, 1}};
  const auto& lengths = report.small() ? few_lengths : all_lengths;
  int i = 0;
  for (const auto& counts : lengths) {
    const std::string n = std::to_string(i++);
    const Ragged ragged(counts, {0, 5});
    check_scan<bf16>(report, rng, "scan bf16 40x16 #" + n, 40, 16, 0, true, ragged);
    check_scan<float>(report, rng, "scan f32 36x16 #" + n, 36, 16, 4, false, ragged);
    check_scan<bf16>(report, rng, "scan bf16 13x5 #" + n, 13, 5, 3, true, ragged);
    check_scan<float>(report, rng, "scan f32 1x1 #" + n, 1, 1, 0, true, ragged);
  }
  if (!report.small()) {
    check_scan<bf16>(report, rng, "scan bf16 1540x16", 1540, 16, 0, true, Ragged({65, 200}, {0, 1}));
    check_scan_cuts(report, rng);
  }
  check_scan_errors(report, rng);

  for (const auto& counts : lengths) {
    const std::string n = std::to_string(i++);
    const Ragged ragged(counts, {0, 5});
    check_conv<bf16>(report, rng, "conv bf16 k4 silu #" + n, 264, 4, true, ConvActivation::silu, ragged);
    check_conv<float>(report, rng, "conv f32 k3 none #" + n, 36, 3, false, ConvActivation::none, ragged);
    check_conv<bf16>(report, rng, "conv bf16 k8 gelu #" + n, 16, 8, true, ConvActivation::gelu, ragged);
    check_conv<bf16>(report, rng, "conv bf16 k2 relu2 #" + n, 5, 2, true, ConvActivation::relu2, ragged);
  }
}

// Random data of a bench: a megabyte of it, repeated.
template <class T>
Buffer<T> noise(Rng& rng, int64_t count, double scale) {
  const int64_t some = std::min<int64_t>(count, 1 << 20);
  const auto values = as_type<T>(rng.normals(some, scale));
  Buffer<T> buffer(count);
  for (int64_t at = 0; at < count; at += some) {
    check_cuda(
        cudaMemcpy(buffer.data() + at, values.data(),
                   sizeof(T) * static_cast<size_t>(std::min(some, count - at)), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  }
  return buffer;
}

void bench_scan(Report& report, const std::string& label, int seqs, int64_t length, int64_t channels,
                const std::vector<SelectiveScanTile>& others) {
  Rng rng(kSeed);
  const int64_t states = 16, t = seqs * length;
  const int sets = rotation(static_cast<size_t>(t * channels * 8));
  Buffer<float> dt_bias(rng.uniforms(channels, -7, -1)), d(rng.normals(channels)),
      h(int64_t{seqs} * channels * states);
  auto rates = rng.uniforms(channels * states, 0, 2.8);
  for (float& v : rates) v = -std::exp(v);
  Buffer<float> a(rates);
  h.zero();
  std::vector<int32_t> first, slot, length_before(static_cast<size_t>(seqs), 0);
  for (int s = 0; s <= seqs; ++s) first.push_back(static_cast<int32_t>(s * length));
  for (int s = 0; s < seqs; ++s) slot.push_back(s);
  Buffer<int32_t> firsts(first), slots(slot), lengths(length_before);
  std::vector<Buffer<bf16>> x, dt, z, b, c, y;
  std::vector<SelectiveScanArgs> args;
  for (int i = 0; i < sets; ++i) {
    x.push_back(noise<bf16>(rng, t * channels, 1)), dt.push_back(noise<bf16>(rng, t * channels, 1.5));
    z.push_back(noise<bf16>(rng, t * channels, 2)), b.push_back(noise<bf16>(rng, t * states, 1));
    c.push_back(noise<bf16>(rng, t * states, 1)), y.emplace_back(t * channels);
    args.push_back({DType::bf16,    x[i].data(), dt[i].data(),
                    dt_bias.data(), a.data(),    b[i].data(),
                    c[i].data(),    d.data(),    z[i].data(),
                    h.data(),       y[i].data(), channels,
                    channels,       states,      states,
                    channels,       channels,    {firsts.data(), slots.data(), lengths.data(), seqs, t},
                    channels,       states});
  }
  std::vector<SelectiveScanTile> tiles{selective_scan_tile(current_arch(), channels, seqs)};
  tiles.insert(tiles.end(), others.begin(), others.end());
  for (const auto& tile : tiles) {
    const bool is_long = t * channels > int64_t{1} << 29;
    const Timing time = time_graph(sets,
                                   [&](cudaStream_t stream, int i) {
                                     selective_scan(args[static_cast<size_t>(i % sets)], tile, stream);
                                   },
                                   {.launches = is_long ? 1 : 6, .samples = is_long ? 10 : 40, .warm_up = 2});
    const double bytes = static_cast<double>(t) * (8.0 * channels + 4.0 * states);
    const std::string shape =
        label + " tile " + std::to_string(tile.channels) + "x" + std::to_string(tile.splits);
    report.measured({"selective_scan", shape, time.median_ms, time.p5_ms, time.p95_ms,
                     bytes / time.median_ms * 1e-6, "gb_s", ceilings().copy_gb_s});
  }
}

void bench_conv(Report& report, const std::string& label, int64_t t, int64_t channels) {
  Rng rng(kSeed);
  const int sets = rotation(static_cast<size_t>(t * channels * 4));
  Buffer<float> weight(rng.normals(channels * 4)), bias(rng.normals(channels)), window(3 * channels);
  window.zero();
  Buffer<int32_t> first(std::vector<int32_t>{0, static_cast<int32_t>(t)}), slot(std::vector<int32_t>{0}),
      length(std::vector<int32_t>{0});
  std::vector<Buffer<bf16>> x, y;
  for (int i = 0; i < sets; ++i) x.push_back(noise<bf16>(rng, t * channels, 1)), y.emplace_back(t * channels);
  const Timing time =
      time_graph(sets,
                 [&](cudaStream_t stream, int i) {
                   const auto at = static_cast<size_t>(i % sets);
                   causal_conv1d({DType::bf16, x[at].data(), weight.data(), bias.data(), window.data(),
                                  y[at].data(), channels, channels, channels, 4, ConvActivation::silu},
                                 {first.data(), slot.data(), length.data(), 1, t}, stream);
                 },
                 {.launches = 6, .samples = 100, .warm_up = 3});
  report.measured({"causal_conv1d", label, time.median_ms, time.p5_ms, time.p95_ms,
                   4.0 * static_cast<double>(t * channels) / time.median_ms * 1e-6, "gb_s",
                   ceilings().copy_gb_s});
}

void bench(Report& report) {
  bench_scan(report, "B1 D5120 L8192", 1, 8192, 5120, {{24, 5}, {12, 10}});
  bench_scan(report, "B1 D5120 L2048", 1, 2048, 5120, {});
  bench_scan(report, "B8 D5120 L2048", 8, 2048, 5120, {{24, 5}});
  bench_scan(report, "B1 D1536 L131072", 1, 131072, 1536, {});
  bench_scan(report, "B1 D1536 L999424", 1, 999424, 1536, {});
  bench_conv(report, "B1 D5120 L8192 k4 silu", 8192, 5120);
  bench_conv(report, "B1 D5376 L8192 k4 silu", 8192, 5376);
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  using namespace crosscurrent::cuda::driver;
  return crosscurrent::cuda::driver::main(argc, argv, check, bench);
}
