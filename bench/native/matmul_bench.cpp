// Times the matmul kernels on cold weights beside a bandwidth probe of the same run.
//
//   matmul_bench [--threads N] [--isa LEVEL] [--filter TEXT] [--seconds S]
//
// For few rows every call takes the next of enough copies of the weights to pass 300 MB, so they come from
// DRAM; the share of the probe says how close the kernel is to the memory. For many rows the arithmetic rate
// counts.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "native/cpu/isa.h"
#include "native/cpu/matmul.h"
#include "native/cpu/pool.h"
#include "native/error.h"

namespace {

using namespace crosscurrent;
using namespace crosscurrent::cpu;
using Clock = std::chrono::steady_clock;

constexpr size_t kColdBytes = 300u << 20;

struct Options {
  int threads = 1;
  std::string filter;
  double seconds = 0.3;
};

struct Case {
  DType dtype;
  int64_t n, k, m;
  Activations activations = Activations::fast;
  bool keep_stored = false;

  std::string name() const {
    return std::string(dtype_info(dtype).name) + (keep_stored ? " stored" : "") +
           (activations == Activations::exact ? " exact" : "") + " " + std::to_string(n) + "x" +
           std::to_string(k) + " m=" + std::to_string(m);
  }
};

double since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// GB/s of reading the next 4 MiB of a buffer far larger than the caches, split over the threads: about as
// long as one call of a kernel, so that both see the same neighbours.
double bandwidth(const std::vector<uint64_t>& buffer, int threads) {
  constexpr size_t kPiece = (4u << 20) / sizeof(uint64_t);
  static size_t position = 0;
  if (position + kPiece > buffer.size()) position = 0;
  const size_t each = kPiece / static_cast<size_t>(threads);
  const uint64_t* piece = buffer.data() + position;
  position += kPiece;
  std::vector<uint64_t> sums(static_cast<size_t>(threads) * 8);
  const auto start = Clock::now();
  Pool::instance().run(threads, threads, [&](int chunk) {
    uint64_t sum[8] = {};
    const uint64_t* from = piece + static_cast<size_t>(chunk) * each;
    for (size_t i = 0; i + 8 <= each; i += 8) {
      for (size_t j = 0; j < 8; ++j) sum[j] += from[i + j];
    }
    for (size_t j = 0; j < 8; ++j) sums[static_cast<size_t>(chunk) * 8 + j] = sum[j];
  });
  const double seconds = since(start);
  volatile uint64_t sink = sums[0] + sums[7];
  static_cast<void>(sink);
  return static_cast<double>(each) * static_cast<double>(threads) * 8 / seconds / 1e9;
}

// Gop/s of one thread for about as long as a small call: f32 fma, and the integer steps of the int4 kernel.
struct ArithmeticRoofs {
  double fma = 0, maddubs = 0;
};

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) ArithmeticRoofs arithmetic() {
  if (!is_available(Isa::avx2)) return {};
  constexpr int kRounds = 4000;
  ArithmeticRoofs roofs;
  __m256 f[10];
  __m256i i[8];
#pragma GCC unroll 10
  for (int j = 0; j < 10; ++j) f[j] = _mm256_set1_ps(1.0f);
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) i[j] = _mm256_set1_epi8(1);
  const __m256i ones = _mm256_set1_epi8(1);
  const __m256 factor = _mm256_set1_ps(0.5f);
  auto start = Clock::now();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 10
    for (int j = 0; j < 10; ++j) {
      f[j] = _mm256_fmadd_ps(f[j], factor, factor);
      asm volatile("" : "+x"(f[j]));  // or the compiler folds the chain
    }
  }
  roofs.fma = kRounds * 10 * 16 / since(start) / 1e9;
  start = Clock::now();
  for (int round = 0; round < kRounds; ++round) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      __m256i product = _mm256_maddubs_epi16(ones, ones);
      asm volatile("" : "+x"(product));
      i[j] = _mm256_add_epi16(i[j], product);
      asm volatile("" : "+x"(i[j]));
    }
  }
  roofs.maddubs = kRounds * 8 * 64 / since(start) / 1e9;
  return roofs;
}
#else
ArithmeticRoofs arithmetic() { return {}; }
#endif

// Small scales and plausible integers: what the values are does not matter, denormal floats would.
std::vector<std::byte> weights(DType dtype, int64_t n, int64_t k) {
  std::mt19937_64 random(1);
  const DTypeInfo info = dtype_info(dtype);
  std::vector<std::byte> bytes(static_cast<size_t>(n * (k / info.block_elements) * info.block_bytes));
  if (info.block_elements == 1) {  // floats near one
    for (size_t i = 0; i < bytes.size(); ++i) {
      const bool is_highest =
          i % static_cast<size_t>(info.block_bytes) == static_cast<size_t>(info.block_bytes) - 1;
      bytes[i] = static_cast<std::byte>(is_highest ? 0x3c : random() & 0x7f);
    }
    return bytes;
  }
  for (std::byte& b : bytes)
    b = static_cast<std::byte>(random() & 0x3b);  // no exponent of all ones, few denormals
  return bytes;
}

void run_case(const Case& c, const Options& options, const std::vector<uint64_t>& probe) {
  const auto file = weights(c.dtype, c.n, c.k);
  const WeightView view{c.dtype, c.n, c.k, file.data()};
  std::vector<PackedMatrix> copies;
  do {
    copies.push_back(pack({&view, 1}, {.keep_stored = c.keep_stored}));
  } while (c.m <= 8 && copies.size() * copies[0].plan.bytes < kColdBytes);
  std::vector<float> x(static_cast<size_t>(c.m * c.k), 0.5f), y(static_cast<size_t>(c.m * c.n));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 37) / 37.0f - 0.5f;
  std::vector<std::byte> scratch(matmul_scratch_bytes(copies[0].plan, c.m, c.activations));

  const Pool::StepScope step;
  std::vector<double> times, probes;
  ArithmeticRoofs roofs;
  size_t next = 0;
  const auto start = Clock::now();
  while (times.size() < 5 || since(start) < options.seconds) {
    if (times.size() % 8 == 0) {
      probes.push_back(bandwidth(probe, options.threads));
      const ArithmeticRoofs now = arithmetic();
      roofs = {std::max(roofs.fma, now.fma), std::max(roofs.maddubs, now.maddubs)};
    }
    const PackedMatrix& w = copies[next++ % copies.size()];
    const auto before = Clock::now();
    matmul({.weight = &w,
            .x = x.data(),
            .x_stride = c.k,
            .m = c.m,
            .y = y.data(),
            .y_stride = c.n,
            .activations = c.activations,
            .scratch = scratch,
            .threads = options.threads});
    times.push_back(since(before));
  }
  std::sort(times.begin(), times.end());
  const double best = times.front(), median = times[times.size() / 2];
  std::sort(probes.begin(), probes.end(), std::greater());
  const double roof = probes.front();
  const double gb = static_cast<double>(copies[0].plan.bytes) / 1e9;
  const double gflop = 2e-9 * static_cast<double>(c.n * c.k) * static_cast<double>(c.m);
  const double arithmetic_roof =
      options.threads * (c.activations == Activations::exact ? roofs.fma : roofs.maddubs);
  std::printf("%-32s %9.1f %9.1f %8.1f %8.1f %5.0f%% %8.1f %8.1f %5.0f%%\n", c.name().c_str(), best * 1e6,
              median * 1e6, gflop / best, arithmetic_roof, 100 * gflop / best / arithmetic_roof, gb / best,
              roof, 100 * gb / best / roof);
  std::fflush(stdout);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const DType dtype : {DType::q4_1, DType::q4_0, DType::q4_k, DType::q8_0, DType::q6_k}) {
    for (const int64_t m : {1, 8, 64, 512}) cases.push_back({dtype, 1536, 1536, m});
    cases.push_back({dtype, 256, 768, 64});  // 0.2 ms: shorter than a scheduler's slice on a busy machine
  }
  for (const int64_t m : {1, 2, 4, 8, 64})
    cases.push_back({DType::q8_0, 49152, 576, m, Activations::fast, true});
  for (const int64_t m : {1, 64}) cases.push_back({DType::q8_0, 49152, 576, m, Activations::exact, true});
  for (const DType dtype : {DType::q4_1, DType::q8_0, DType::f32, DType::f16, DType::bf16}) {
    for (const int64_t m : {1, 64, 512}) cases.push_back({dtype, 1536, 1536, m, Activations::exact});
    cases.push_back({dtype, 256, 768, 64, Activations::exact});
    cases.push_back({dtype, 2048, 2048, 128, Activations::exact});  // rows a power of two apart
  }
  for (const Activations activations : {Activations::fast, Activations::exact}) {
    cases.push_back({DType::q8_0, 256, 768, 64, activations, true});
    cases.push_back({DType::q8_0, 1024, 576, 1, activations, true});
  }
  // SmolLM2-135M: qkv, output, gate and up, down
  for (const int64_t m : {1, 2, 4, 8, 512}) {
    for (const auto& [n, k] : {std::pair{960, 576}, {576, 576}, {3072, 576}, {576, 1536}})
      cases.push_back({DType::q4_1, n, k, m});
  }
  cases.push_back({DType::q4_1, 4096, 4096, 1});
  return cases;
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--threads") options.threads = std::max(1, std::atoi(argv[i + 1]));
    if (name == "--filter") options.filter = argv[i + 1];
    if (name == "--seconds") options.seconds = std::atof(argv[i + 1]);
    if (name == "--isa") {
      const auto isa = parse_isa(argv[i + 1]);
      if (!isa) throw Error(Code::invalid_argument, "--isa", "a level name", argv[i + 1]);
      set_isa(isa);
    }
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) try {
  const Options options = parse(argc, argv);
  std::vector<uint64_t> probe(kColdBytes / sizeof(uint64_t), 1);
  std::printf("level %s, %d thread(s) of %d available; cold weights for m <= 8; best of many\n",
              std::string(isa_name(active_isa())).c_str(), options.threads, available_threads());
  std::printf("%-32s %9s %9s %8s %8s %6s %8s %8s %6s\n", "case", "best us", "median us", "GFLOP/s", "roof",
              "share", "GB/s", "probe", "share");
  for (const Case& c : all_cases()) {
    if (c.name().find(options.filter) != std::string::npos) run_case(c, options, probe);
  }
  return 0;
} catch (const Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
