// What every driver shares: seeded data, device buffers with sentinels, comparison, timing, ceilings, JSON
// lines.
//
//   int main(int argc, char** argv) { return crosscurrent::cuda::driver::main(argc, argv, check, bench); }
//
//   void check(Report& report) {
//     Rng rng(kSeed);
//     Buffer<bf16> x(rng.normal_bf16(m * k)), y(m * n);
//     int4_matmul({...}, workspace, nullptr);
//     report.compare("m=3 n=64", y.download(), reference, {.absolute = 1e-2});
//     report.expect(y.intact(), "m=3 n=64: sentinels");
//   }
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "../launch.cuh"

namespace crosscurrent::cuda::driver {

// xoshiro-class generator, the same numbers everywhere.
class Rng {
 public:
  explicit Rng(uint64_t seed) : state_(seed) {}
  uint64_t next();
  double uniform();              // [0, 1)
  double normal();               // mean 0, deviation 1
  int64_t below(int64_t limit);  // [0, limit)

  std::vector<float> normals(int64_t count, double scale = 1.0);
  std::vector<float> uniforms(int64_t count, double low, double high);
  std::vector<bf16> normals_bf16(int64_t count, double scale = 1.0);
  std::vector<uint8_t> bytes(int64_t count);

 private:
  uint64_t state_;
};

std::vector<float> to_float(const std::vector<bf16>& values);
std::vector<bf16> to_bf16(const std::vector<float>& values);

// Device memory between two stretches of sentinel bytes; poisoned (NaN in every float type) until uploaded.
class Memory {
 public:
  explicit Memory(size_t bytes);
  Memory(Memory&& other) noexcept { *this = std::move(other); }
  Memory& operator=(Memory&& other) noexcept;
  ~Memory();

  std::byte* data() const { return base_ + kGuard; }
  size_t bytes() const { return bytes_; }
  void upload(const void* host);
  void download(void* host) const;
  void fill(int byte);
  void poison() { fill(0xFF); }
  bool intact() const;  // no sentinel was overwritten

 private:
  static constexpr size_t kGuard = 512;
  std::byte* base_ = nullptr;
  size_t bytes_ = 0;
};

template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : count_(count), memory_(static_cast<size_t>(count) * sizeof(T)) {}
  explicit Buffer(const std::vector<T>& host) : Buffer(static_cast<int64_t>(host.size())) { upload(host); }

  T* data() const { return reinterpret_cast<T*>(memory_.data()); }
  int64_t size() const { return count_; }
  void upload(const std::vector<T>& host) { memory_.upload(host.data()); }
  std::vector<T> download() const {
    std::vector<T> host(static_cast<size_t>(count_));
    memory_.download(host.data());
    return host;
  }
  void poison() { memory_.poison(); }
  void zero() { memory_.fill(0); }
  bool intact() const { return memory_.intact(); }

 private:
  int64_t count_;
  Memory memory_;
};

// Zeroed workspace of the harness.
class WorkspaceBuffer {
 public:
  explicit WorkspaceBuffer(size_t bytes) : memory_(bytes) { memory_.fill(0); }
  operator Workspace() const { return {memory_.data(), memory_.bytes()}; }
  bool intact() const { return memory_.intact(); }

 private:
  Memory memory_;
};

// |got - expected| <= absolute + relative |expected|, and ||got - expected|| <= norm ||expected||.
struct Tolerance {
  double absolute = 0;
  double relative = 0;
  double norm = 1e30;
};

struct Difference {
  double max_absolute = 0, max_relative = 0, norm = 0;  // norm: of the difference over that of the reference
  int64_t bad = 0, first_bad = -1;
};

Difference difference(const std::vector<float>& got, const std::vector<double>& expected, const Tolerance&);

// Counts and prints; collects the JSON lines of a bench.
class Report {
 public:
  Report(std::string json_file, bool small) : json_file_(std::move(json_file)), small_(small) {}
  ~Report();

  void expect(bool condition, const std::string& what);
  // Prints a line only when the comparison fails. Returns what it saw.
  Difference compare(const std::string& what, const std::vector<float>& got,
                     const std::vector<double>& expected, const Tolerance& tolerance);
  Difference compare(const std::string& what, const std::vector<bf16>& got,
                     const std::vector<double>& expected, const Tolerance& tolerance);
  template <class T>
  void same_bits(const std::string& what, const std::vector<T>& a, const std::vector<T>& b) {
    expect(a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0,
           what + ": bits differ");
  }
  // `body` throws Error with this code and a message that contains `words`.
  void expect_error(const std::string& what, Code code, const std::string& words,
                    const std::function<void()>& body);

  // One measured case. `rate` in GB/s or TFLOP/s, `ceiling` in the same unit.
  struct Measured {
    std::string kernel, label;
    double ms, low_ms, high_ms;  // median, p5, p95
    double rate;
    const char* unit;  // "gb_s" or "tflop_s"
    double ceiling;
  };
  void measured(const Measured& m);
  void line(const std::string& json);  // any other JSON object, one line

  // Whether checks should be few and small: under compute-sanitizer.
  bool small() const { return small_; }

  int failed() const { return failed_; }
  int passed() const { return passed_; }

 private:
  std::string json_file_, lines_;
  bool small_;
  int passed_ = 0, failed_ = 0;
};

struct Timing {
  double median_ms, p5_ms, p95_ms;  // of one launch
};

struct TimingOptions {
  int launches = 20;  // at least, in one graph
  int samples = 100;  // replays that are timed
  int warm_up = 10;
};

// Captures `run(stream, i)` for i = 0, 1, … into one graph, `sets` input sets in turn (choose them so that
// all together exceed twice L2), and times replays of it.
Timing time_graph(int sets, const std::function<void(cudaStream_t, int)>& run,
                  const TimingOptions& options = {});

// Sets needed so that `bytes` a set exceed twice L2.
int rotation(size_t bytes);

// Measured in this process, once.
struct Ceilings {
  double copy_gb_s;    // read + written
  double read_gb_s;    // read only
  double mma_tflop_s;  // bf16 wgmma (mma.sync elsewhere) from shared memory, nothing else
};
const Ceilings& ceilings();

// `driver check`, `driver small` (under compute-sanitizer) or `driver bench [--json FILE]` (JSON lines); no
// word: check and bench. Exit status 1 when a check failed.
int main(int argc, char** argv, void (*check)(Report&), void (*bench)(Report&));

}  // namespace crosscurrent::cuda::driver
