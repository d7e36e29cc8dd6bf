// Core-to-core latency: two threads, each on a core of its own, hand a cache line to and fro.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "probe.h"

#if defined(__linux__)
#include <sched.h>
#endif

namespace crosscurrent::cpu {

#if defined(__linux__)
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPasses = 200;
constexpr int kTurns = 100;  // there and back: short, so that a busy machine too gives a pass undisturbed
constexpr size_t kMostPairs = 64;  // of a machine with hundreds of cores; evenly chosen
// Where another process has one of the cores, a hand-over takes slices of the scheduler: enough is enough.
constexpr auto kPatience = std::chrono::milliseconds(500);  // of a pair
constexpr auto kMostTime = std::chrono::seconds(2);         // of all, save the last one begun

std::vector<int> allowed_cpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &mask)) cpus.push_back(cpu);
  return cpus;
}

// Of the calling thread alone.
bool pin(int cpu) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  return sched_setaffinity(0, sizeof(mask), &mask) == 0;
}

// Two threads that answer each other over `ball`; gives up when told to stop.
class Rally {
 public:
  // Nanoseconds of one hand-over at best; 0 where no pass was finished.
  double play(int first, int second) {
    std::thread back([this, second] { answer(second); });
    struct Join {
      Rally& rally;
      std::thread& thread;
      ~Join() {
        rally.stop_.store(true, std::memory_order_relaxed);
        thread.join();
      }
    } join{*this, back};
    std::thread forth([this, first] { serve(first); });
    {
      std::unique_lock lock(mutex_);
      over_.wait_for(lock, kPatience, [this] { return done_; });
    }
    stop_.store(true, std::memory_order_relaxed);
    forth.join();
    return best_ns_;
  }

 private:
  bool wait_for(uint32_t value) const {
    while (ball_.load(std::memory_order_acquire) != value)
      if (stop_.load(std::memory_order_relaxed)) return false;
    return true;
  }

  void serve(int cpu) {
    bool alive = pin(cpu);
    uint32_t ball = 0;
    for (int pass = 0; alive && pass < kPasses; ++pass) {
      const auto start = Clock::now();
      for (int turn = 0; alive && turn < kTurns; ++turn) {
        ball_.store(++ball, std::memory_order_release);
        alive = wait_for(++ball);
      }
      const std::chrono::duration<double, std::nano> took = Clock::now() - start;
      const double ns = took.count() / (2 * kTurns);
      if (alive && (best_ns_ == 0 || ns < best_ns_)) best_ns_ = ns;
    }
    const std::lock_guard lock(mutex_);
    done_ = true;
    over_.notify_one();
  }

  void answer(int cpu) {
    if (!pin(cpu)) return;
    uint32_t ball = 0;
    while (wait_for(ball + 1)) ball_.store(ball += 2, std::memory_order_release);
  }

  alignas(64) std::atomic<uint32_t> ball_{0};
  alignas(64) std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable over_;
  bool done_ = false;   // guarded by mutex_
  double best_ns_ = 0;  // of the serving thread until it is joined
};

}  // namespace

double measure_core_latency_ns() {
  const std::vector<int> cpus = allowed_cpus();
  std::vector<std::pair<int, int>> pairs;
  for (size_t i = 0; i < cpus.size(); ++i)
    for (size_t j = i + 1; j < cpus.size(); ++j) pairs.emplace_back(cpus[i], cpus[j]);
  const size_t count = std::min(pairs.size(), kMostPairs);
  std::vector<double> took;
  const auto start = Clock::now();
  for (size_t i = 0; i < count && Clock::now() - start < kMostTime; ++i) {
    const auto& [first, second] = pairs[i * pairs.size() / count];
    if (const double ns = Rally().play(first, second); ns > 0) took.push_back(ns);
  }
  if (took.empty()) return 0;
  const auto middle = took.begin() + static_cast<std::ptrdiff_t>(took.size() / 2);
  std::nth_element(took.begin(), middle, took.end());
  return *middle;
}
#else
double measure_core_latency_ns() { return 0; }  // no system call ties a thread to a core
#endif

}  // namespace crosscurrent::cpu
