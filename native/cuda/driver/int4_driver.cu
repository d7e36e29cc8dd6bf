// packed_matmul: int4 and int8 weights, streaming and wgmma kernels.
#include <algorithm>
#include <cmath>

#include "int4_problem.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20261125;

// Of a typical |y|: bf16 rounding of y, and f32 sums of k products; the wgmma kernel rounds scaled weights to
// bf16 too. A gated product of two errs as their product.
Tolerance tolerance_of(const Problem& p) {
  double size = std::sqrt(static_cast<double>(p.shape.k)) * 0.012 *
                (p.shape.bits == 4 ? p.shape.has_zero ? 6.8 : 4.6 : 74);
  if (p.shape.gated) size *= size;
  const bool rounded_weights = p.row_class == RowClass::prefill && p.m > kStreamTokens;
  return {.absolute = (rounded_weights ? 4e-2 : 1e-3) * size,
          .relative = 1.0 / 128,
          .norm = rounded_weights ? 5e-3 : 3e-3};
}

void check_problem(Report& report, const Problem& problem, Rng& rng) {
  const Instance instance = Instance::make(problem, rng);
  const PackedMatmulArgs args = instance.args();
  const WorkspaceBuffer workspace(packed_matmul_workspace(args));
  packed_matmul(args, workspace, nullptr);
  report.compare(problem.name(), instance.result(report), instance.reference(), tolerance_of(problem));
  report.expect(workspace.intact(), problem.name() + ": writes beyond the workspace");
}

// Row t alone, and first of any number, has the bits it has in the full batch.
void check_row_invariance(Report& report, Problem problem, Rng& rng) {
  problem.m = 40;
  const Instance instance = Instance::make(problem, rng);
  packed_matmul(instance.args(), {}, nullptr);
  const std::vector<bf16> all = instance.result(report);
  const int64_t n = problem.outputs();
  for (const int64_t count : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31}) {
    for (const int64_t first : {int64_t{0}, int64_t{5}}) {
      PackedMatmulArgs args = instance.args();
      args.x += first * instance.x_stride;
      args.m = count;
      Buffer<bf16> y(count * instance.y_stride);
      args.y = y.data();
      packed_matmul(args, {}, nullptr);
      const std::vector<bf16> some = y.download();
      for (int64_t t = 0; t < count; ++t) {
        const auto from = all.begin() + (first + t) * n;
        const auto got = some.begin() + t * instance.y_stride;
        report.same_bits(problem.name() + " rows " + std::to_string(first) + " + " + std::to_string(count),
                         std::vector<bf16>(got, got + n), std::vector<bf16>(from, from + n));
      }
    }
  }
}

// A row of NaN or infinity reaches its own row of y alone.
void check_isolation(Report& report, Rng& rng) {
  Instance instance = Instance::make({.shape = {.n = 130, .k = 256}, .m = 16}, rng);
  packed_matmul(instance.args(), {}, nullptr);
  const std::vector<bf16> before = instance.result(report);
  for (int64_t c = 0; c < 256; ++c)
    instance.x[static_cast<size_t>(3 * instance.x_stride + c)] = __float2bfloat16(NAN);
  instance.device_x.upload(instance.x);
  packed_matmul(instance.args(), {}, nullptr);
  const std::vector<bf16> after = instance.result(report);
  for (int64_t i = 0; i < 16 * 130; ++i) {
    const auto at = static_cast<size_t>(i);
    const bool right = i / 130 == 3 ? std::isnan(__bfloat162float(after[at]))
                                    : std::memcmp(&after[at], &before[at], sizeof(bf16)) == 0;
    if (!right) return report.expect(false, "NaN in row 3: element " + std::to_string(i));
  }
  report.expect(true, "NaN in row 3");
}

void check_errors(Report& report, Rng& rng) {
  const Instance instance = Instance::make({.shape = {.n = 64, .k = 128}, .m = 2}, rng);
  const auto bad = [&](const char* words, void (*change)(PackedMatmulArgs&)) {
    PackedMatmulArgs args = instance.args();
    change(args);
    report.expect_error(words, Code::invalid_argument, words, [&] { packed_matmul(args, {}, nullptr); });
  };
  bad("bits: expected 4 or 8, got 3", [](PackedMatmulArgs& a) { a.shape.bits = 3; });
  bad("group: expected 32, 64 or 128, got 16", [](PackedMatmulArgs& a) { a.shape.group = 16; });
  bad("k: expected a multiple of group, got 96", [](PackedMatmulArgs& a) { a.shape.k = 96; });
  bad("k: expected at least one group, got 0", [](PackedMatmulArgs& a) { a.shape.k = 0; });
  bad("n: expected", [](PackedMatmulArgs& a) { a.shape.n = int64_t{1} << 31; });
  bad("n: expected even, gate and up, got 63",
      [](PackedMatmulArgs& a) { a.shape.n = 63, a.shape.gated = true; });
  bad("m: expected", [](PackedMatmulArgs& a) { a.m = -1; });
  bad("m: expected", [](PackedMatmulArgs& a) { a.m = int64_t{1} << 31; });
  bad("x_stride: expected", [](PackedMatmulArgs& a) { a.x_stride = 120; });
  bad("x_stride: expected", [](PackedMatmulArgs& a) { a.x_stride = 132; });
  bad("y_stride: expected", [](PackedMatmulArgs& a) { a.y_stride = 68; });
  bad("y_stride: expected", [](PackedMatmulArgs& a) { a.y_stride = 56; });
  bad("x: expected a pointer aligned to 16", [](PackedMatmulArgs& a) { a.x += 1; });
  bad("x: expected a pointer aligned to 16, got null", [](PackedMatmulArgs& a) { a.x = nullptr; });
  bad("y: expected a pointer aligned to 16", [](PackedMatmulArgs& a) { a.y += 4; });
  bad("weight: expected a pointer aligned to 256, got null", [](PackedMatmulArgs& a) { a.weight = nullptr; });
  bad("permutation: expected a pointer aligned to 16",
      [](PackedMatmulArgs& a) { a.permutation = reinterpret_cast<const int32_t*>(4); });
  bad("8 bits without zero points", [](PackedMatmulArgs& a) { a.shape.bits = 8, a.shape.has_zero = true; });

  PackedMatmulArgs empty = instance.args();
  empty.m = 0, empty.x = nullptr, empty.y = nullptr, empty.weight = nullptr;
  packed_matmul(empty, {}, nullptr);
  empty = instance.args();
  empty.shape.n = 0;
  packed_matmul(empty, {}, nullptr);
  check_cuda(cudaDeviceSynchronize(), "empty");
  const auto y = instance.y.download();
  report.expect(
      std::all_of(y.begin(), y.end(), [](bf16 v) { return reinterpret_cast<const uint16_t&>(v) == 0xFFFF; }),
      "no rows: nothing is written");
}

// Few and small, one of each path: under compute-sanitizer.
void check_small(Report& report, Rng& rng) {
  check_problem(report, {.shape = {.n = 70, .k = 96, .group = 32}, .m = 3, .act_order = true}, rng);
  check_problem(report, {.shape = {.n = 2300, .k = 640, .has_zero = true}, .m = 11, .bias = true}, rng);
  check_problem(report, {.shape = {.n = 130, .k = 704, .group = 64, .gated = true}, .m = 2}, rng);
  check_problem(report, {.shape = {.bits = 8, .n = 130, .k = 1280}, .m = 9}, rng);
  check_problem(report, {.shape = {.n = 300, .k = 640}, .m = 70, .row_class = RowClass::prefill}, rng);
  check_problem(report,
                {.shape = {.n = 600, .k = 384, .group = 32, .has_zero = true, .gated = true},
                 .m = 150,
                 .bias = true,
                 .act_order = true,
                 .row_class = RowClass::prefill},
                rng);
  check_problem(report, {.shape = {.bits = 8, .n = 300, .k = 256}, .m = 129, .row_class = RowClass::prefill},
                rng);
}

void check(Report& report) {
  Rng rng(kSeed);
  if (report.small()) return check_small(report, rng);
  for (const int64_t n : {1, 15, 63, 64, 65, 127, 255, 256, 257, 520}) {
    check_problem(report, {.shape = {.n = n, .k = 256}, .m = 3}, rng);
  }
  for (const int64_t k : {32, 64, 96, 128, 160, 992, 1024, 1056, 2080, 4096}) {
    check_problem(report, {.shape = {.n = 70, .k = k, .group = 32}, .m = 9}, rng);
  }
  for (const int64_t m : {1, 2, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 200}) {
    for (const RowClass row_class : {RowClass::decode, RowClass::prefill}) {
      check_problem(report, {.shape = {.n = 200, .k = 384}, .m = m, .bias = true, .row_class = row_class},
                    rng);
    }
  }
  for (const int bits : {4, 8}) {
    for (const int group : {32, 64, 128}) {
      for (const bool zero : {false, true}) {
        for (const bool gated : {false, true}) {
          for (const int64_t m : {5, 12, 70, 150}) {
            if (bits == 8 && zero) continue;
            const PackedShape shape{.bits = bits,
                                    .n = 300,
                                    .k = 512 + 3 * group,
                                    .group = group,
                                    .has_zero = zero,
                                    .scale_type = zero ? ScaleType::bf16 : ScaleType::f16,
                                    .gated = gated};
            const RowClass row_class = m > 16 ? RowClass::prefill : RowClass::decode;
            check_problem(report,
                          {.shape = shape,
                           .m = m,
                           .bias = gated,
                           .act_order = m == 12 || m == 70,
                           .row_class = row_class},
                          rng);
          }
        }
      }
    }
  }
  check_problem(report, {.shape = {.n = 96, .k = 512}, .m = 4, .source_group = 512}, rng);
  // Many panels: clusters and every k_warps.
  check_problem(report, {.shape = {.n = 4096, .k = 2048}, .m = 5}, rng);
  check_problem(report, {.shape = {.n = 14336, .k = 512, .gated = true}, .m = 2}, rng);
  check_problem(report, {.shape = {.n = 2000, .k = 2048}, .m = 160, .row_class = RowClass::prefill}, rng);
  check_row_invariance(report, {.shape = {.n = 300, .k = 1280}}, rng);
  check_row_invariance(report, {.shape = {.n = 4096, .k = 512, .group = 32, .has_zero = true}, .bias = true},
                       rng);
  check_row_invariance(report, {.shape = {.bits = 8, .n = 300, .k = 640, .gated = true}}, rng);
  check_isolation(report, rng);
  check_errors(report, rng);
}

struct BenchCase {
  int bits;
  int64_t k, n;
  std::vector<int64_t> ms;
  int group = 128;
  bool gated = false;
};

// Random bytes stand for the packed weights: every bit pattern is a weight.
void bench_case(Report& report, const BenchCase& c, bool dependent, int tiles = 0) {
  Rng rng(kSeed);
  const PackedShape shape{.bits = c.bits, .n = c.n, .k = c.k, .group = c.group, .gated = c.gated};
  const auto bytes = static_cast<size_t>(shape.bytes());
  const int sets = rotation(bytes);
  Memory weights(bytes * static_cast<size_t>(sets));
  const auto noise = rng.bytes(1 << 20);
  std::vector<uint16_t> scales(static_cast<size_t>(shape.bytes() - shape.scales_offset()) / 2);
  for (uint16_t& v : scales) v = to_f16_bits(static_cast<float>(0.002 + 0.018 * rng.uniform()));
  for (int set = 0; set < sets; ++set) {
    std::byte* const base = weights.data() + static_cast<size_t>(set) * bytes;
    for (int64_t at = 0; at < shape.scales_offset(); at += 1 << 20) {
      const auto piece = static_cast<size_t>(std::min<int64_t>(1 << 20, shape.scales_offset() - at));
      check_cuda(cudaMemcpy(base + at, noise.data(), piece, cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    check_cuda(
        cudaMemcpy(base + shape.scales_offset(), scales.data(), 2 * scales.size(), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  }
  const int64_t outputs = c.gated ? c.n / 2 : c.n;
  for (const int64_t m : c.ms) {
    Buffer<bf16> x(rng.normals_bf16(m * c.k)), y(m * outputs);
    PackedMatmulArgs args{.shape = shape,
                          .weight = weights.data(),
                          .x = x.data(),
                          .y = y.data(),
                          .m = m,
                          .x_stride = c.k,
                          .y_stride = outputs,
                          .row_class = m > kStreamTokens ? RowClass::prefill : RowClass::decode,
                          .dependent = dependent};
    const WorkspaceBuffer workspace(packed_matmul_workspace(args));
    const Timing t = time_graph(sets, [&](cudaStream_t stream, int set) {
      args.weight = weights.data() + static_cast<size_t>(set) * bytes;
      tiles > 0 ? packed_matmul_stream(args, tiles, stream) : packed_matmul(args, workspace, stream);
    });
    std::string label = std::to_string(c.k) + "x" + std::to_string(c.n) + " g" + std::to_string(c.group) +
                        " m=" + std::to_string(m);
    if (c.gated) label += " gated";
    if (dependent) label += " dependent";
    if (tiles > 0) label += " tiles " + std::to_string(tiles);
    const bool by_bytes = m <= kStreamTokens;
    const double moved = static_cast<double>(bytes) + 2.0 * static_cast<double>(m * (c.k + outputs));
    const double flop = 2.0 * static_cast<double>(m) * static_cast<double>(c.n) * static_cast<double>(c.k);
    report.measured({.kernel = "int" + std::to_string(c.bits) + "_matmul",
                     .label = label,
                     .ms = t.median_ms,
                     .low_ms = t.p5_ms,
                     .high_ms = t.p95_ms,
                     .rate = by_bytes ? moved / t.median_ms * 1e-6 : flop / t.median_ms * 1e-9,
                     .unit = by_bytes ? "gb_s" : "tflop_s",
                     .ceiling = by_bytes ? ceilings().copy_gb_s : ceilings().mma_tflop_s});
  }
}

void bench(Report& report) {
  // As in a decode step, each launch dependent on the one before; then launches that wait for it to end.
  bench_case(report, {4, 4096, 4096, {1, 4, 8, 16, 32, 64, 128, 512, 4096}}, true);
  bench_case(report, {4, 4096, 14336, {1, 4, 8, 16, 17, 32, 64, 128, 256, 512, 1024, 4096}}, true);
  bench_case(report, {4, 8192, 28672, {1, 4, 16, 64, 128, 512}}, true);
  bench_case(report, {4, 4096, 4096, {1, 16}}, false);
  bench_case(report, {4, 4096, 14336, {1, 16, 64, 512}}, false);
  bench_case(report, {4, 8192, 28672, {1, 16}}, false);
  bench_case(report, {4, 4096, 14336, {1, 16}, 32}, true);
  bench_case(report, {4, 4096, 28672, {1, 16, 512}, 128, true}, true);
  bench_case(report, {4, 14336, 4096, {1, 16, 64}}, true);
  bench_case(report, {4, 4096, 1024, {1, 16}}, true);
  bench_case(report, {8, 4096, 4096, {1, 16}}, true);
  bench_case(report, {8, 4096, 14336, {1, 8, 16, 64, 512}}, true);
}

// Other tiles of the streaming kernel: `int4_driver tune`.
void tune(Report& report) {
  for (const int64_t m : {1, 16}) {
    for (const auto [k, n] : {std::pair<int64_t, int64_t>{4096, 4096}, {4096, 14336}, {8192, 28672}}) {
      for (int tiles = 1; tiles <= most_stream_tiles(m); ++tiles)
        bench_case(report, {4, k, n, {m}}, true, tiles);
    }
  }
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  using namespace crosscurrent::cuda::driver;
  if (argc > 1 && std::string(argv[1]) == "tune") {
    argv[1] = const_cast<char*>("bench");
    return crosscurrent::cuda::driver::main(argc, argv, check, tune);
  }
  return crosscurrent::cuda::driver::main(argc, argv, check, bench);
}
