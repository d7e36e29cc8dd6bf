#include "probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "isa.h"
#include "memory.h"
#include "pool.h"
#include "probe_kernels.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__x86_64__)
constexpr IsaTables<ProbeKernels> kKernels{.v2 = &kProbeV2, .avx2 = &kProbeAvx2};
#else
constexpr IsaTables<ProbeKernels> kKernels{.v2 = &kProbeV2};
#endif

constexpr int64_t kReadFloats = int64_t{1} << 26;  // 256 MiB: beyond any cache
constexpr int64_t kRounds = 4'000'000;
constexpr int kPasses = 7;

std::atomic<float> sink;  // so that nothing is optimised away

// The best of some passes of body(chunk), one chunk a thread.
template <class Body>
double best_seconds(int threads, const Body& body) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = Clock::now();
    Pool::instance().run(threads, threads, body);
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace

double measure(Probe probe, int max_threads) {
  const int threads = Pool::instance().threads_for(max_threads);
  const ProbeKernels& kernels = kKernels.active();
  const Pool::StepScope hot;
  if (probe == Probe::read) {
    require_memory("probe", kReadFloats * sizeof(float));
    const PageBlock block("probe", kReadFloats * sizeof(float));
    float* floats = reinterpret_cast<float*>(block.data());
    std::fill_n(floats, kReadFloats, 1.0f);  // untouched pages would all be one
    const int64_t part = kReadFloats / threads / 64 * 64;
    return static_cast<double>(part * threads) * sizeof(float) /
           best_seconds(threads, [&](int chunk) { sink = kernels.read(floats + chunk * part, part); });
  }
  if (probe == Probe::int8 && kernels.int8 == nullptr) return 0;
  const double operations = 2.0 * kRounds * kProbeChains * threads * (probe == Probe::f32 ? 8 : 32);
  return operations / best_seconds(threads, [&](int) {
           sink = probe == Probe::f32 ? kernels.f32(kRounds) : static_cast<float>(kernels.int8(kRounds));
         });
}

}  // namespace crosscurrent::cpu
