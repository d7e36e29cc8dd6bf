// ssd, prefill: `ssd_driver check | bench [--json FILE]`
#include <algorithm>
#include <cmath>

#include "../ssd.h"
#include "../ssd_tile.h"
#include "elements.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251127;
constexpr float kLow = 0.002f, kHigh = 0.9f;  // of Δ

struct Shape {
  int64_t heads, head_dim, groups, states;
  int64_t dim() const { return heads * head_dim; }
  int64_t wide() const { return groups * states; }
  int64_t state() const { return dim() * states; }
  std::string name() const {
    return "H" + std::to_string(heads) + " P" + std::to_string(head_dim) + " G" + std::to_string(groups) +
           " N" + std::to_string(states);
  }
};

// Inputs of some sequences on the host. Slots in reverse, one more than needed.
template <class T>
struct Case {
  Shape shape;
  std::vector<int32_t> first{0}, slot, length;
  std::vector<float> x, dt, b, c, dt_bias, a, d, s;
  int64_t t() const { return first.back(); }
  int seqs() const { return static_cast<int>(slot.size()); }

  Case(Rng& rng, const Shape& shape, const std::vector<int>& counts, const std::vector<int>& lengths)
      : shape(shape) {
    for (size_t i = 0; i < counts.size(); ++i) {
      first.push_back(first.back() + counts[i]);
      slot.push_back(static_cast<int32_t>(counts.size() - i));
      length.push_back(lengths[i % lengths.size()]);
    }
    x = rounded<T>(rng.normals(t() * shape.dim()));
    dt = rounded<T>(rng.normals(t() * shape.heads, 1.5));
    b = rounded<T>(rng.normals(t() * shape.wide()));
    c = rounded<T>(rng.normals(t() * shape.wide()));
    dt_bias = rng.uniforms(shape.heads, -6, -1);
    a = rng.uniforms(shape.heads, 0, 2.7);
    for (float& v : a) v = -std::exp(v);
    d = rng.normals(shape.heads);
    s = rng.normals((seqs() + 1) * shape.state());
  }

  struct Result {
    std::vector<double> y, s;
  };
  Result reference() const {
    Result r{std::vector<double>(static_cast<size_t>(t() * shape.dim())), {}};
    r.s.assign(s.begin(), s.end());
    for (int seq = 0; seq < seqs(); ++seq) {
      if (first[seq] == first[seq + 1]) continue;
      double* state = r.s.data() + slot[seq] * shape.state();
      if (length[seq] == 0) std::fill_n(state, shape.state(), 0.0);
      for (int64_t i = first[seq]; i < first[seq + 1]; ++i) {
        for (int64_t h = 0; h < shape.heads; ++h) {
          const double delta = std::clamp(log1p_exp(double{dt[i * shape.heads + h]} + dt_bias[h]),
                                          double{kLow}, double{kHigh});
          const double decay = std::exp(delta * a[h]);
          const float* bi = b.data() + i * shape.wide() + h * shape.groups / shape.heads * shape.states;
          const float* ci = c.data() + (bi - b.data());
          for (int64_t p = h * shape.head_dim; p < (h + 1) * shape.head_dim; ++p) {
            const double xi = x[i * shape.dim() + p];
            double y = d[h] * xi;
            for (int64_t n = 0; n < shape.states; ++n) {
              double& v = state[p * shape.states + n];
              v = decay * v + delta * xi * bi[n];
              y += v * ci[n];
            }
            r.y[i * shape.dim() + p] = y;
          }
        }
      }
    }
    return r;
  }
};

template <class T>
struct Device {
  Buffer<int32_t> first, slot, length;
  Buffer<T> x, dt, b, c, y;
  Buffer<float> dt_bias, a, d, s;
  SsdArgs args{};
  WorkspaceBuffer workspace;

  explicit Device(const Case<T>& k)
      : first(k.first),
        slot(k.slot),
        length(k.length),
        x(as_type<T>(k.x)),
        dt(as_type<T>(k.dt)),
        b(as_type<T>(k.b)),
        c(as_type<T>(k.c)),
        y(static_cast<int64_t>(k.x.size())),
        dt_bias(k.dt_bias),
        a(k.a),
        d(k.d),
        s(k.s),
        args{kDtype<T>,      x.data(),
             dt.data(),      dt_bias.data(),
             a.data(),       b.data(),
             c.data(),       d.data(),
             s.data(),       y.data(),
             k.shape.dim(),  k.shape.heads,
             k.shape.wide(), k.shape.wide(),
             k.shape.dim(),  {first.data(), slot.data(), length.data(), k.seqs(), k.t()},
             k.shape.heads,  k.shape.head_dim,
             k.shape.groups, k.shape.states,
             kLow,           kHigh},
        workspace(ssd_workspace(args)) {}
  void run() { ssd(args, workspace, nullptr); }
  bool intact() const { return y.intact() && s.intact() && workspace.intact(); }
};

template <class T>
void check_case(Report& report, Rng& rng, const Shape& shape, const std::vector<int>& counts,
                const std::vector<int>& lengths) {
  std::string what = "ssd " + shape.name() + (sizeof(T) == 2 ? " bf16" : " f32");
  for (const int n : counts) what += " " + std::to_string(n);
  const Case<T> k(rng, shape, counts, lengths);
  Device<T> device(k);
  device.run();
  const auto reference = k.reference();
  const bool chunked = sizeof(T) == 2 && shape.head_dim == 64 && (shape.states == 64 || shape.states == 128);
  const double y = chunked ? 8e-3 : sizeof(T) == 2 ? 4e-3 : 1e-5, s = chunked ? 4e-3 : 1e-5;
  report.compare(what + " y", device.y.download(), reference.y,
                 {.absolute = 40 * y, .relative = 4 * y, .norm = y});
  report.compare(what + " s", device.s.download(), reference.s,
                 {.absolute = 40 * s, .relative = 4 * s, .norm = s});
  report.expect(device.intact(), what + ": sentinels");
}

// In one call, in two cut at a segment, and beside others: the same bits.
void check_cuts(Report& report, Rng& rng) {
  const Shape shape{4, 64, 1, 128};
  const int total = 1300, cut = 2 * kSsdSegment;
  const Case<bf16> whole(rng, shape, {total}, {0});
  Device<bf16> one(whole);
  one.run();
  Device<bf16> two(whole);
  for (const auto& [begin, end] : {std::pair{0, cut}, std::pair{cut, total}}) {
    Buffer<int32_t> first(std::vector<int32_t>{0, end - begin}), length(std::vector<int32_t>{begin});
    SsdArgs args = two.args;
    const auto skip = [&](const void* p, int64_t width) {
      return static_cast<const bf16*>(p) + begin * width;
    };
    args.x = skip(args.x, shape.dim()), args.dt = skip(args.dt, shape.heads);
    args.b = skip(args.b, shape.wide()), args.c = skip(args.c, shape.wide());
    args.y = const_cast<bf16*>(skip(args.y, shape.dim()));
    args.sequences.first = first.data(), args.sequences.length = length.data(),
    args.sequences.t = end - begin;
    ssd(args, two.workspace, nullptr);
    check_cuda(cudaDeviceSynchronize(), "cut");
  }
  report.same_bits("ssd in two calls y", two.y.download(), one.y.download());
  report.same_bits("ssd in two calls s", two.s.download(), one.s.download());

  const int before = 77;
  Case<bf16> batch(rng, shape, {before, total, 600}, {0});
  const auto put = [&](std::vector<float>& to, const std::vector<float>& from, int64_t width) {
    std::copy(from.begin(), from.end(), to.begin() + before * width);
  };
  put(batch.x, whole.x, shape.dim()), put(batch.dt, whole.dt, shape.heads);
  put(batch.b, whole.b, shape.wide()), put(batch.c, whole.c, shape.wide());
  batch.a = whole.a, batch.d = whole.d, batch.dt_bias = whole.dt_bias;
  Device<bf16> three(batch);
  three.run();
  auto y = three.y.download();
  y = {y.begin() + before * shape.dim(), y.begin() + (before + total) * shape.dim()};
  report.same_bits("ssd beside others y", y, one.y.download());
}

void check_errors(Report& report, Rng& rng) {
  const Case<bf16> k(rng, {2, 64, 1, 128}, {5}, {0});
  Device<bf16> device(k);
  const auto bad = [&](const char* words, auto change) {
    SsdArgs args = device.args;
    change(args);
    report.expect_error(std::string("ssd error ") + words, Code::invalid_argument, words,
                        [&] { ssd(args, device.workspace, nullptr); });
  };
  bad("dtype", [](auto& a) { a.dtype = DType::f16; });
  bad("heads", [](auto& a) { a.heads = 0; });
  bad("groups", [](auto& a) { a.groups = 3; });
  bad("states", [](auto& a) { a.states = 300; });
  bad("ssd: x", [](auto& a) { a.x = nullptr; });
  bad("ssd: y", [](auto& a) { a.y = const_cast<void*>(a.x); });
  bad("ssd: s", [](auto& a) { a.s += 1; });
  bad("dt_stride", [](auto& a) { a.dt_stride = 1; });
  bad("seqs", [](auto& a) { a.sequences.seqs = -1; });
  report.expect_error("ssd workspace", Code::invalid_argument, "workspace",
                      [&] { ssd(device.args, {}, nullptr); });
  SsdArgs none = device.args;
  none.sequences.t = 0, none.x = nullptr;
  ssd(none, {}, nullptr);
}

void check(Report& report) {
  Rng rng(kSeed);
  if (report.small()) {
    check_case<bf16>(report, rng, {2, 64, 1, 128}, {70, 513}, {0, 3});
    check_case<bf16>(report, rng, {3, 64, 1, 64}, {65}, {1});
    check_case<float>(report, rng, {2, 17, 1, 5}, {9}, {0});
    return;
  }
  for (const int n : {1, 15, 16, 17, 63, 64, 65, 511, 512, 513})
    check_case<bf16>(report, rng, {2, 64, 1, 128}, {n}, {n % 2});
  check_case<bf16>(report, rng, {6, 64, 3, 64}, {700, 1, 0, 1100, 64}, {0, 3});
  check_case<bf16>(report, rng, {3, 64, 1, 128}, {130, 600}, {7});  // a head without a partner
  check_case<bf16>(report, rng, {2, 64, 2, 64}, std::vector<int>(40, 530),
                   {1, 0});                                     // several panels, groups of one head
  check_case<bf16>(report, rng, {1, 64, 1, 64}, {20000}, {0});  // a sequence over two panels
  check_case<float>(report, rng, {2, 64, 1, 128}, {70, 1, 0, 33}, {0, 2});
  check_case<bf16>(report, rng, {4, 17, 2, 5}, {33, 2}, {2, 0});
  check_case<float>(report, rng, {1, 1, 1, 1}, {9}, {0});
  check_case<bf16>(report, rng, {2, 32, 1, 256}, {40}, {1});
  check_cuts(report, rng);
  check_errors(report, rng);
}

Buffer<bf16> noise(Rng& rng, int64_t count, double scale) {
  const int64_t some = std::min<int64_t>(count, 1 << 20);
  const auto values = rng.normals_bf16(some, scale);
  Buffer<bf16> buffer(count);
  for (int64_t at = 0; at < count; at += some)
    check_cuda(cudaMemcpy(buffer.data() + at, values.data(),
                          2 * static_cast<size_t>(std::min(some, count - at)), cudaMemcpyHostToDevice),
               "cudaMemcpy");
  return buffer;
}

double bench_case(Report& report, const std::string& label, const Shape& shape, int seqs, int64_t length) {
  Rng rng(kSeed);
  const int64_t t = seqs * length;
  const int sets = rotation(static_cast<size_t>(t * shape.dim() * 4));
  auto rates = rng.uniforms(shape.heads, 0, 2.7);
  for (float& v : rates) v = -std::exp(v);
  Buffer<float> dt_bias(rng.uniforms(shape.heads, -6, -1)), a(rates), d(rng.normals(shape.heads)),
      s(seqs * shape.state());
  s.zero();
  std::vector<int32_t> first, slot;
  for (int i = 0; i <= seqs; ++i) first.push_back(static_cast<int32_t>(i * length));
  for (int i = 0; i < seqs; ++i) slot.push_back(i);
  Buffer<int32_t> firsts(first), slots(slot), lengths(std::vector<int32_t>(static_cast<size_t>(seqs), 0));
  std::vector<Buffer<bf16>> x, dt, b, c, y;
  std::vector<SsdArgs> args;
  for (int i = 0; i < sets; ++i) {
    x.push_back(noise(rng, t * shape.dim(), 1)), dt.push_back(noise(rng, t * shape.heads, 1.5));
    b.push_back(noise(rng, t * shape.wide(), 1)), c.push_back(noise(rng, t * shape.wide(), 1)),
        y.emplace_back(t * shape.dim());
    args.push_back(
        {DType::bf16,  x[i].data(),    dt[i].data(), dt_bias.data(),
         a.data(),     b[i].data(),    c[i].data(),  d.data(),
         s.data(),     y[i].data(),    shape.dim(),  shape.heads,
         shape.wide(), shape.wide(),   shape.dim(),  {firsts.data(), slots.data(), lengths.data(), seqs, t},
         shape.heads,  shape.head_dim, shape.groups, shape.states,
         kLow,         kHigh});
  }
  WorkspaceBuffer workspace(ssd_workspace(args[0]));
  const bool is_long = t > 100000;
  const Timing time = time_graph(
      sets, [&](cudaStream_t stream, int i) { ssd(args[static_cast<size_t>(i % sets)], workspace, stream); },
      {.launches = is_long ? 1 : 8, .samples = is_long ? 10 : 100, .warm_up = 2});
  const double bytes =
      2.0 * static_cast<double>(t) * static_cast<double>(2 * shape.dim() + shape.heads + 2 * shape.wide());
  report.measured({"ssd", label, time.median_ms, time.p5_ms, time.p95_ms, bytes / time.median_ms * 1e-6,
                   "gb_s", ceilings().copy_gb_s});
  return time.median_ms;
}

void bench(Report& report) {
  const Shape shape{80, 64, 1, 128};
  bench_case(report, "H80 P64 N128 B1 L2048", shape, 1, 2048);
  bench_case(report, "H80 P64 N128 B1 L8192", shape, 1, 8192);
  bench_case(report, "H80 P64 N128 B8 L2048", shape, 8, 2048);
  bench_case(report, "H128 P64 G8 N128 B1 L8192", {128, 64, 8, 128}, 1, 8192);
  const double some = bench_case(report, "H80 P64 N128 B1 L100000", shape, 1, 100000);
  const double many = bench_case(report, "H80 P64 N128 B1 L1000000", shape, 1, 1000000);
  std::printf("time(1M) / time(100k) = %.2f\n", many / some);
  report.line(R"j({"kernel":"ssd","case":"time(1M) / time(100k)","ratio":)j" + std::to_string(many / some) +
              "}");
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  using namespace crosscurrent::cuda::driver;
  return crosscurrent::cuda::driver::main(argc, argv, check, bench);
}
