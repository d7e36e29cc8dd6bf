// The process-wide thread pool: parked at zero CPU when idle, spinning only inside a step.
//
// A region is `chunks` calls behind one atomic counter; the caller takes chunks too and waits only for those
// already taken. Kernels must give the same bits whatever the split: nothing here promises which thread runs
// which chunk.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

namespace crosscurrent::cpu {

template <class Signature>
class FunctionRef;

// A borrowed callable: two words, no allocation. The callable must outlive the call it is passed to.
template <class Result, class... Args>
class FunctionRef<Result(Args...)> {
 public:
  template <class F>
    requires(!std::is_same_v<std::remove_cvref_t<F>, FunctionRef>)
  FunctionRef(F&& f)  // NOLINT(google-explicit-constructor): lambdas convert at the call site
      : object_(const_cast<void*>(static_cast<const void*>(std::addressof(f)))),
        call_([](void* object, Args... args) -> Result {
          return (*static_cast<std::remove_reference_t<F>*>(object))(std::forward<Args>(args)...);
        }) {}

  Result operator()(Args... args) const { return call_(object_, std::forward<Args>(args)...); }

 private:
  void* object_;
  Result (*call_)(void*, Args...);
};

// Cores this process may use at once: distinct physical cores of its affinity mask, cut by the cgroup's CPU
// quota; >= 1.
int available_threads();

class Pool {
 public:
  static constexpr int kMaxThreads = 256;

  // Never destroyed: workers may still run while the process exits.
  static Pool& instance();

  // Threads of a region whose caller names none, that caller included. 0 restores `available_threads()`.
  void set_threads(int threads);
  int threads() const { return limit_.load(std::memory_order_relaxed); }

  // Threads that `run(chunks, max_threads, …)` would use at most: for kernels that choose their chunk size.
  int threads_for(int max_threads) const;

  // Calls body(0) … body(chunks - 1), each once, on at most `max_threads` threads (0: `threads()`), the
  // caller among them, and returns when all are done. The first exception of a chunk is rethrown here; chunks
  // not yet started are then skipped. A call from inside a chunk, or while another thread's region holds the
  // workers, runs on the caller alone: no caller ever waits for another.
  void run(int chunks, int max_threads, FunctionRef<void(int)> body);

  // While one lives, workers spin briefly between regions instead of parking, and a caller that had to wait
  // for a worker whose core was taken goes on alone for a while. One a step.
  class StepScope {
   public:
    explicit StepScope(Pool& pool = instance()) : pool_(pool) {
      pool_.hot_.fetch_add(1, std::memory_order_relaxed);
    }
    ~StepScope() { pool_.hot_.fetch_sub(1, std::memory_order_relaxed); }
    StepScope(const StepScope&) = delete;
    StepScope& operator=(const StepScope&) = delete;

   private:
    Pool& pool_;
  };

 private:
  using Clock = std::chrono::steady_clock;

  Pool();
  void start_workers(int count);
  void work();
  int take_chunks() noexcept;  // how many
  // Judges how long the caller waited for workers after its own chunks, each of which took `chunk`.
  void note_wait(Clock::duration chunk, Clock::duration waited);

  std::atomic<int> limit_;
  std::atomic<int> hot_{0};

  std::mutex turn_;  // held by the caller whose region has the workers
  int workers_ = 0;  // guarded by turn_
  bool can_start_ = true;
  Clock::time_point solo_until_;  // guarded by turn_, as the next: regions of steps run on their caller alone
  Clock::duration solo_{};

  // The region; written by the caller before `gate_` opens, read by workers that entered it.
  const FunctionRef<void(int)>* body_ = nullptr;
  int chunks_ = 0;
  std::exception_ptr error_;  // written by the one thread that set failed_
  std::atomic<bool> failed_{false};

  alignas(64) std::atomic<uint32_t> epoch_{0};  // a new region: workers wait on this word
  alignas(64) std::atomic<uint32_t> gate_{0};   // bits: open | places left << 16 | workers inside
  alignas(64) std::atomic<int> next_{0};
};

}  // namespace crosscurrent::cpu
