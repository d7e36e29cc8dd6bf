#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string_view>

#include "../ptx.cuh"
#include "../wgmma.cuh"
#include "harness.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr unsigned char kSentinel = 0xA5;

__global__ void read_kernel(const uint4* data, int64_t count, uint32_t* out) {
  uint32_t sum = 0;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  constexpr int kUnroll = 8;
  int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + (kUnroll - 1) * step < count; i += kUnroll * step) {
    uint4 v[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) v[j] = load_streaming(data + i + j * step);
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) sum += v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
  }
  if (sum == 0x12345678) *out = sum;  // never, but the compiler does not know
}

__global__ void copy_kernel(const uint4* from, uint4* to, int64_t count) {
  constexpr int kUnroll = 4;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x * kUnroll + threadIdx.x;
  uint4 v[kUnroll];
#pragma unroll
  for (int j = 0; j < kUnroll; ++j) {
    const int64_t i = first + j * blockDim.x;
    if (i < count) v[j] = load_streaming(from + i);
  }
#pragma unroll
  for (int j = 0; j < kUnroll; ++j) {
    const int64_t i = first + j * blockDim.x;
    if (i < count) to[i] = v[j];
  }
}

// Random operands stay in shared memory: zeros would draw less power and run faster than real data.
__global__ void __launch_bounds__(256, 1) mma_kernel(const uint4* data, int rounds, float* out) {
  if constexpr (kSm90a) {
    extern __shared__ __align__(1024) unsigned char shared[];
    constexpr int kBytes = 2 * 64 * 128 + 256 * 128;  // a[128, 64], b[256, 64]
    for (int i = threadIdx.x; i < kBytes / 16; i += 256) reinterpret_cast<uint4*>(shared)[i] = data[i];
    fence_async_shared();
    __syncthreads();
    const uint64_t a = wgmma_matrix(shared + threadIdx.x / 128 * 64 * 128, 1024, Swizzle::bytes_128);
    const uint64_t b = wgmma_matrix(shared + 2 * 64 * 128, 1024, Swizzle::bytes_128);
    float d[128] = {};
    for (int round = 0; round < rounds; ++round) {
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma_shared<256>(d, wgmma_advance(a, 32 * k), wgmma_advance(b, 32 * k), true);
      wgmma_commit();
      wgmma_wait<0>();
    }
    float sum = 0;
    for (int i = 0; i < 128; ++i) sum += d[i];
    out[blockIdx.x * 256 + threadIdx.x] = sum;
  } else {
    const uint4 v = data[threadIdx.x];
    const uint32_t a[4] = {v.x, v.y, v.z, v.w};
    float d[8][4] = {};
    for (int round = 0; round < rounds * 4; ++round) {
#pragma unroll
      for (int j = 0; j < 8; ++j) mma_bf16(d[j], a, v.x ^ j, v.y);
    }
    float sum = 0;
    for (int j = 0; j < 8; ++j) sum += d[j][0] + d[j][1] + d[j][2] + d[j][3];
    out[blockIdx.x * 256 + threadIdx.x] = sum;
  }
}

Ceilings measure_ceilings() {
  const Arch& arch = current_arch();
  constexpr int64_t kBytes = int64_t{1} << 30;
  Memory from(kBytes), to(kBytes);
  Rng rng(1);
  const auto noise = rng.bytes(1 << 20);
  for (int64_t at = 0; at < kBytes; at += 1 << 20) {
    check_cuda(cudaMemcpy(from.data() + at, noise.data(), 1 << 20, cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  const auto* source = reinterpret_cast<const uint4*>(from.data());
  auto* target = reinterpret_cast<uint4*>(to.data());
  constexpr int64_t kCount = kBytes / 16;
  const TimingOptions few{.launches = 1, .samples = 20, .warm_up = 3};
  const Timing copy = time_graph(
      1,
      [&](cudaStream_t stream, int) {
        copy_kernel<<<kCount / 2048, 512, 0, stream>>>(source, target, kCount);
      },
      few);
  const Timing read = time_graph(
      1,
      [&](cudaStream_t stream, int) {
        read_kernel<<<arch.sms * 4, 512, 0, stream>>>(source, kCount, reinterpret_cast<uint32_t*>(target));
      },
      few);
  constexpr int kRounds = 2000;
  std::vector<bf16> operands = rng.normals_bf16(32 << 10);
  check_cuda(cudaMemcpy(from.data(), operands.data(), 64 << 10, cudaMemcpyHostToDevice), "cudaMemcpy");
  const Timing mma = time_graph(
      1,
      [&](cudaStream_t stream, int) {
        launch(mma_kernel,
               {.grid = dim3(arch.sms), .block = dim3(256), .shared_bytes = 64 << 10, .stream = stream},
               source, kRounds, reinterpret_cast<float*>(target));
      },
      few);
  const double flop = arch.has_wgmma() ? 2.0 * 128 * 256 * 64 : 2.0 * 8 * 16 * 8 * 16 * 8 * 4;
  return {2.0 * kBytes / copy.median_ms * 1e-6, 1.0 * kBytes / read.median_ms * 1e-6,
          flop * kRounds * arch.sms / mma.median_ms * 1e-9};
}

}  // namespace

uint64_t Rng::next() {  // splitmix64
  uint64_t z = state_ += 0x9E3779B97F4A7C15;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

double Rng::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

double Rng::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(6.283185307179586 * uniform());
}

int64_t Rng::below(int64_t limit) { return static_cast<int64_t>(next() % static_cast<uint64_t>(limit)); }

std::vector<float> Rng::normals(int64_t count, double scale) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = static_cast<float>(scale * normal());
  return values;
}

std::vector<float> Rng::uniforms(int64_t count, double low, double high) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = static_cast<float>(low + (high - low) * uniform());
  return values;
}

std::vector<bf16> Rng::normals_bf16(int64_t count, double scale) { return to_bf16(normals(count, scale)); }

std::vector<uint8_t> Rng::bytes(int64_t count) {
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (uint8_t& v : values) v = static_cast<uint8_t>(next());
  return values;
}

std::vector<float> to_float(const std::vector<bf16>& values) {
  std::vector<float> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](bf16 v) { return __bfloat162float(v); });
  return result;
}

std::vector<bf16> to_bf16(const std::vector<float>& values) {
  std::vector<bf16> result(values.size());
  std::transform(values.begin(), values.end(), result.begin(), [](float v) { return __float2bfloat16(v); });
  return result;
}

Memory::Memory(size_t bytes) : bytes_(bytes) {
  void* base = nullptr;
  check_cuda(cudaMalloc(&base, bytes + 2 * kGuard), "cudaMalloc");
  base_ = static_cast<std::byte*>(base);
  check_cuda(cudaMemset(base_, kSentinel, bytes + 2 * kGuard), "cudaMemset");
  poison();
}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

Memory::~Memory() { cudaFree(base_); }

void Memory::upload(const void* host) {
  if (bytes_ > 0) check_cuda(cudaMemcpy(data(), host, bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
}

void Memory::download(void* host) const {
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // streams of any kind
  if (bytes_ > 0) check_cuda(cudaMemcpy(host, data(), bytes_, cudaMemcpyDeviceToHost), "cudaMemcpy");
}

void Memory::fill(int byte) {
  if (bytes_ > 0) check_cuda(cudaMemset(data(), byte, bytes_), "cudaMemset");
}

bool Memory::intact() const {
  check_cuda(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  std::vector<unsigned char> guards(2 * kGuard);
  check_cuda(cudaMemcpy(guards.data(), base_, kGuard, cudaMemcpyDeviceToHost), "cudaMemcpy");
  check_cuda(cudaMemcpy(guards.data() + kGuard, data() + bytes_, kGuard, cudaMemcpyDeviceToHost),
             "cudaMemcpy");
  return std::all_of(guards.begin(), guards.end(), [](unsigned char c) { return c == kSentinel; });
}

Difference difference(const std::vector<float>& got, const std::vector<double>& expected,
                      const Tolerance& t) {
  Difference d;
  double error = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double value = i < got.size() ? got[i] : NAN;
    const double absolute = std::abs(value - expected[i]);
    // A NaN or infinity is right where the reference has the same.
    const bool same = value == expected[i] || (std::isnan(value) && std::isnan(expected[i]));
    if (!same && !(absolute <= t.absolute + t.relative * std::abs(expected[i]))) {
      if (d.bad++ == 0) d.first_bad = static_cast<int64_t>(i);
    }
    if (same) {
      if (std::isfinite(expected[i])) size += expected[i] * expected[i];
      continue;
    }
    d.max_absolute = std::max(d.max_absolute, absolute);
    if (expected[i] != 0) d.max_relative = std::max(d.max_relative, absolute / std::abs(expected[i]));
    error += absolute * absolute;
    size += expected[i] * expected[i];
  }
  d.norm = size > 0 ? std::sqrt(error / size) : std::sqrt(error);
  if (!(d.norm <= t.norm) && d.bad == 0) d.bad = 1;
  if (got.size() != expected.size()) ++d.bad;
  return d;
}

Report::~Report() {
  if (json_file_.empty() || lines_.empty()) return;
  if (std::FILE* file = std::fopen(json_file_.c_str(), "w")) {
    std::fwrite(lines_.data(), 1, lines_.size(), file);
    std::fclose(file);
  }
}

void Report::expect(bool condition, const std::string& what) {
  ++(condition ? passed_ : failed_);
  if (!condition) std::printf("FAIL %s\n", what.c_str());
}

Difference Report::compare(const std::string& what, const std::vector<float>& got,
                           const std::vector<double>& expected, const Tolerance& tolerance) {
  const Difference d = difference(got, expected, tolerance);
  char text[256];
  const auto at = static_cast<size_t>(std::max<int64_t>(0, d.first_bad));
  std::snprintf(text, sizeof text,
                ": %lld of %zu bad, first at %lld (%g, expected %g), max abs %.3g rel %.3g norm %.3g",
                static_cast<long long>(d.bad), expected.size(), static_cast<long long>(d.first_bad),
                at < got.size() ? got[at] : NAN, at < expected.size() ? expected[at] : NAN, d.max_absolute,
                d.max_relative, d.norm);
  expect(d.bad == 0, what + text);
  return d;
}

Difference Report::compare(const std::string& what, const std::vector<bf16>& got,
                           const std::vector<double>& expected, const Tolerance& tolerance) {
  return compare(what, to_float(got), expected, tolerance);
}

void Report::expect_error(const std::string& what, Code code, const std::string& words,
                          const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    expect(error.code() == code && std::string_view(error.what()).find(words) != std::string_view::npos,
           what + ": got " + std::string(code_name(error.code())) + ": " + error.what());
    return;
  }
  expect(false, what + ": nothing was thrown");
}

void Report::measured(const Measured& m) {
  std::printf("%-24s %-40s %9.2f us (%.2f-%.2f) %9.1f %-7s %5.1f %%\n", m.kernel.c_str(), m.label.c_str(),
              m.ms * 1e3, m.low_ms * 1e3, m.high_ms * 1e3, m.rate, m.unit, 100 * m.rate / m.ceiling);
  char text[512];
  std::snprintf(
      text, sizeof text,
      R"({"kernel":"%s","case":"%s","ms":%.6g,"p5_ms":%.6g,"p95_ms":%.6g,"%s":%.6g,"share":%.4g,"errors":%d})",
      m.kernel.c_str(), m.label.c_str(), m.ms, m.low_ms, m.high_ms, m.unit, m.rate, m.rate / m.ceiling,
      failed_);
  line(text);
}

void Report::line(const std::string& json) { lines_ += json + "\n"; }

Timing time_graph(int sets, const std::function<void(cudaStream_t, int)>& run, const TimingOptions& options) {
  const int launches = round_up(std::max(options.launches, sets), sets);
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  run(stream, 0);  // loads the module: not allowed while capturing
  check_cuda(cudaStreamSynchronize(stream), "first run");
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  for (int i = 0; i < launches; ++i) run(stream, i % sets);
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  check_cuda(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");

  std::vector<cudaEvent_t> events(static_cast<size_t>(options.samples) + 1);
  for (cudaEvent_t& event : events) check_cuda(cudaEventCreate(&event), "cudaEventCreate");
  for (int i = 0; i < options.warm_up; ++i) check_cuda(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
  check_cuda(cudaEventRecord(events[0], stream), "cudaEventRecord");
  for (int i = 0; i < options.samples; ++i) {
    check_cuda(cudaGraphLaunch(replay, stream), "cudaGraphLaunch");
    check_cuda(cudaEventRecord(events[static_cast<size_t>(i) + 1], stream), "cudaEventRecord");
  }
  check_cuda(cudaStreamSynchronize(stream), "replay");
  std::vector<double> ms;
  for (size_t i = 1; i < events.size(); ++i) {
    float elapsed = 0;
    check_cuda(cudaEventElapsedTime(&elapsed, events[i - 1], events[i]), "cudaEventElapsedTime");
    ms.push_back(elapsed / launches);
  }
  for (cudaEvent_t event : events) cudaEventDestroy(event);
  cudaGraphExecDestroy(replay);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::sort(ms.begin(), ms.end());
  const auto at = [&](double share) {
    return ms[static_cast<size_t>(share * static_cast<double>(ms.size() - 1))];
  };
  return {at(0.5), at(0.05), at(0.95)};
}

int rotation(size_t bytes) {
  const auto wanted = 2 * static_cast<size_t>(current_arch().l2_bytes);
  return static_cast<int>(ceil_div(wanted, std::max<size_t>(bytes, 1))) + 1;
}

const Ceilings& ceilings() {
  static const Ceilings measured = measure_ceilings();
  return measured;
}

int main(int argc, char** argv, void (*check)(Report&), void (*bench)(Report&)) {
  std::string what = "all", json;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else {
      what = word;
    }
  }
  Report report(json, what == "small");
  try {
    if (what != "bench") check(report);
    if (what != "check" && what != "small") {
      cudaDeviceProp device{};
      check_cuda(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
      const Ceilings& c = ceilings();
      std::printf("%s: copy %.0f GB/s, read %.0f GB/s, mma %.0f TFLOP/s\n", device.name, c.copy_gb_s,
                  c.read_gb_s, c.mma_tflop_s);
      char text[256];
      std::snprintf(text, sizeof text,
                    R"({"device":"%s","copy_gb_s":%.5g,"read_gb_s":%.5g,"mma_tflop_s":%.5g})", device.name,
                    c.copy_gb_s, c.read_gb_s, c.mma_tflop_s);
      report.line(text);
      bench(report);
    }
    check_cuda(cudaDeviceSynchronize(), "at the end");
  } catch (const std::exception& error) {
    report.expect(false, std::string("threw: ") + error.what());
  }
  std::printf("%d passed, %d failed\n", report.passed(), report.failed());
  return report.failed() == 0 ? 0 : 1;
}

}  // namespace crosscurrent::cuda::driver
