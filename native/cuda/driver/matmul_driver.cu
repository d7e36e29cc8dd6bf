// matmul: bf16 weights, wgmma and mma.sync kernels.
#include <algorithm>
#include <cmath>

#include "../matmul.h"
#include "harness.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20261126;

struct Problem {
  int64_t m, n, k;
  bool bias = false;
  RowClass row_class = RowClass::prefill;

  std::string name() const {
    return "m=" + std::to_string(m) + " n=" + std::to_string(n) + " k=" + std::to_string(k) +
           (bias ? " bias" : "") + (row_class == RowClass::decode ? " decode" : "");
  }
};

struct Instance {
  Problem problem;
  int64_t k_stride, y_stride;
  std::vector<bf16> w, x, bias;
  Buffer<bf16> device_w, device_x, device_bias, y;

  static Instance make(const Problem& p, Rng& rng) {
    const int64_t k_stride = p.k + 8, y_stride = round_up<int64_t>(p.n, 8) + 8;
    const auto w = rng.normals_bf16(p.n * k_stride, 0.05), x = rng.normals_bf16(p.m * k_stride);
    const auto bias = rng.normals_bf16(p.bias ? p.n : 0);
    return {p,
            k_stride,
            y_stride,
            w,
            x,
            bias,
            Buffer<bf16>(w),
            Buffer<bf16>(x),
            Buffer<bf16>(bias),
            Buffer<bf16>(p.m * y_stride)};
  }

  MatmulArgs args() const {
    return {.weight = device_w.data(),
            .x = device_x.data(),
            .bias = problem.bias ? device_bias.data() : nullptr,
            .y = y.data(),
            .m = problem.m,
            .n = problem.n,
            .k = problem.k,
            .weight_stride = k_stride,
            .x_stride = k_stride,
            .y_stride = y_stride,
            .row_class = problem.row_class};
  }

  std::vector<double> reference() const {
    const std::vector<float> wf = to_float(w), xf = to_float(x), bf = to_float(bias);
    std::vector<double> all(static_cast<size_t>(problem.m * problem.n));
    for (int64_t t = 0; t < problem.m; ++t) {
      for (int64_t r = 0; r < problem.n; ++r) {
        double sum = problem.bias ? bf[static_cast<size_t>(r)] : 0.0;
        const float *a = &xf[static_cast<size_t>(t * k_stride)], *b = &wf[static_cast<size_t>(r * k_stride)];
        for (int64_t c = 0; c < problem.k; ++c) sum += static_cast<double>(a[c]) * b[c];
        all[static_cast<size_t>(t * problem.n + r)] = sum;
      }
    }
    return all;
  }

  std::vector<bf16> result(Report& report) const {
    const std::vector<bf16> padded = y.download();
    std::vector<bf16> dense;
    bool untouched = true;
    for (int64_t t = 0; t < problem.m; ++t) {
      const auto row = padded.begin() + t * y_stride;
      dense.insert(dense.end(), row, row + problem.n);
      for (int64_t c = problem.n; c < y_stride; ++c) {
        untouched = untouched && reinterpret_cast<const uint16_t&>(row[c]) == 0xFFFF;
      }
    }
    report.expect(untouched && y.intact(), problem.name() + ": writes beyond y");
    return dense;
  }
};

void check_problem(Report& report, const Problem& problem, Rng& rng) {
  const Instance instance = Instance::make(problem, rng);
  matmul(instance.args(), {}, nullptr);
  const double size = 0.05 * std::sqrt(static_cast<double>(problem.k));
  report.compare(problem.name(), instance.result(report), instance.reference(),
                 {.absolute = 1e-3 * size, .relative = 1.0 / 128, .norm = 3e-3});
}

void check_errors(Report& report, Rng& rng) {
  const Instance instance = Instance::make({.m = 2, .n = 16, .k = 32}, rng);
  const auto bad = [&](const char* words, void (*change)(MatmulArgs&)) {
    MatmulArgs args = instance.args();
    change(args);
    report.expect_error(words, Code::invalid_argument, words, [&] { matmul(args, {}, nullptr); });
  };
  bad("m: expected", [](MatmulArgs& a) { a.m = -1; });
  bad("n: expected", [](MatmulArgs& a) { a.n = int64_t{1} << 31; });
  bad("k: expected a multiple of 8, got 30", [](MatmulArgs& a) { a.k = 30; });
  bad("k: expected at least 8, got 0", [](MatmulArgs& a) { a.k = 0; });
  bad("weight_stride: expected", [](MatmulArgs& a) { a.weight_stride = 36; });
  bad("x_stride: expected", [](MatmulArgs& a) { a.x_stride = 24; });
  bad("y_stride: expected", [](MatmulArgs& a) { a.y_stride = 12; });
  bad("x: expected a pointer aligned to 16, got null", [](MatmulArgs& a) { a.x = nullptr; });
  bad("weight: expected a pointer aligned to 16", [](MatmulArgs& a) { a.weight += 4; });
  bad("y: expected a pointer aligned to 16", [](MatmulArgs& a) { a.y += 4; });
  MatmulArgs empty = instance.args();
  empty.m = 0, empty.x = nullptr;
  matmul(empty, {}, nullptr);
  empty = instance.args();
  empty.n = 0, empty.weight = nullptr;
  matmul(empty, {}, nullptr);
  check_cuda(cudaDeviceSynchronize(), "empty");
}

// A row alone has the bits it has among others.
void check_row_invariance(Report& report, Rng& rng) {
  const Instance instance =
      Instance::make({.m = 130, .n = 200, .k = 520, .row_class = RowClass::decode}, rng);
  matmul(instance.args(), {}, nullptr);
  const std::vector<bf16> all = instance.result(report);
  for (const int64_t count : {1, 5, 63, 64, 65}) {
    MatmulArgs args = instance.args();
    Buffer<bf16> y(count * instance.y_stride);
    args.x += 7 * instance.k_stride, args.m = count, args.y = y.data();
    matmul(args, {}, nullptr);
    const std::vector<bf16> some = y.download();
    for (int64_t t = 0; t < count; ++t) {
      const auto from = all.begin() + (7 + t) * 200;
      const auto got = some.begin() + t * instance.y_stride;
      report.same_bits("rows 7 + " + std::to_string(count), std::vector<bf16>(got, got + 200),
                       std::vector<bf16>(from, from + 200));
    }
  }
}

void check(Report& report) {
  Rng rng(kSeed);
  if (report.small()) {
    check_problem(report, {.m = 5, .n = 70, .k = 200, .bias = true, .row_class = RowClass::decode}, rng);
    check_problem(report, {.m = 70, .n = 150, .k = 200, .bias = true}, rng);
    return check_problem(report, {.m = 600, .n = 6500, .k = 72}, rng);  // wide tiles
  }
  for (const RowClass row_class : {RowClass::prefill, RowClass::decode}) {
    for (const int64_t m : {1, 63, 64, 65, 129, 300}) {
      check_problem(report, {.m = m, .n = 150, .k = 200, .bias = true, .row_class = row_class}, rng);
    }
    for (const int64_t n : {1, 8, 63, 65, 127, 128, 129, 257}) {
      check_problem(report, {.m = 33, .n = n, .k = 96, .row_class = row_class}, rng);
    }
    for (const int64_t k : {8, 56, 64, 72, 512, 1000}) {
      check_problem(report, {.m = 70, .n = 96, .k = k, .row_class = row_class}, rng);
    }
  }
  check_problem(report, {.m = 1030, .n = 3208, .k = 136, .bias = true}, rng);  // wide tiles, several a block
  check_problem(report, {.m = 4100, .n = 1001, .k = 72}, rng);
  check_row_invariance(report, rng);
  check_errors(report, rng);
}

void bench_case(Report& report, int64_t m, int64_t n, int64_t k) {
  Rng rng(kSeed);
  const int sets = rotation(static_cast<size_t>(2 * (m * k + n * k)));
  const std::vector<bf16> noise = rng.normals_bf16(1 << 20);
  const auto noisy = [&](int64_t count) {
    Buffer<bf16> buffer(count);
    for (int64_t at = 0; at < count; at += 1 << 20) {
      const auto bytes = static_cast<size_t>(2 * std::min<int64_t>(1 << 20, count - at));
      check_cuda(cudaMemcpy(buffer.data() + at, noise.data(), bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    return buffer;
  };
  const Buffer<bf16> w = noisy(sets * n * k), x = noisy(sets * m * k), y = noisy(m * n);
  MatmulArgs args{.y = y.data(), .m = m, .n = n, .k = k, .weight_stride = k, .x_stride = k, .y_stride = n};
  const Timing t = time_graph(sets,
                              [&](cudaStream_t stream, int set) {
                                args.weight = w.data() + set * n * k;
                                args.x = x.data() + set * m * k;
                                matmul(args, {}, stream);
                              },
                              {.launches = 4, .samples = 100, .warm_up = 5});
  report.measured({.kernel = "matmul",
                   .label = "m=" + std::to_string(m) + " n=" + std::to_string(n) + " k=" + std::to_string(k),
                   .ms = t.median_ms,
                   .low_ms = t.p5_ms,
                   .high_ms = t.p95_ms,
                   .rate = 2.0 * static_cast<double>(m) * static_cast<double>(n * k) / t.median_ms * 1e-9,
                   .unit = "tflop_s",
                   .ceiling = ceilings().mma_tflop_s});
}

void bench(Report& report) {
  bench_case(report, 4096, 4096, 4096);
  bench_case(report, 8192, 8192, 8192);
  bench_case(report, 512, 14336, 4096);
  bench_case(report, 4096, 14336, 4096);
  bench_case(report, 64, 14336, 4096);
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  using namespace crosscurrent::cuda::driver;
  return crosscurrent::cuda::driver::main(argc, argv, check, bench);
}
