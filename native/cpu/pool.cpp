#include "pool.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <system_error>
#include <thread>

#include "available_threads.h"
#include "thread_slice.h"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace crosscurrent::cpu {
namespace {

constexpr uint32_t kOpen = 1u << 31;
constexpr uint32_t kPlace = 1u << 16;
constexpr uint32_t kInside = kPlace - 1;
constexpr uint32_t kPlaces = kOpen - kPlace;

// Must exceed the longest serial gap inside a step, or a worker always comes too late (cpu-kernels.md §5).
constexpr auto kSpin = std::chrono::microseconds(300);
constexpr int kPausesBetweenClockReads = 64;
constexpr int kCallerPauses = 2000;  // ~20-40 us: about one chunk

// A worker whose core another process took keeps its chunk for a slice of the scheduler. Where that happens,
// a busy machine decodes slower on two threads than on one (235 tok/s against 519, load 8 on 2 cores): the
// caller then goes on alone for a while, and tries again.
constexpr auto kStall = std::chrono::milliseconds(1);
constexpr int kStallChunks = 4;  // and longer than this many chunks of the caller
constexpr auto kShortestSolo = std::chrono::milliseconds(10);
constexpr auto kLongestSolo = std::chrono::milliseconds(320);

thread_local bool in_chunk = false;

// Regions opened while one lives run on their caller.
struct InChunk {
  InChunk() { in_chunk = true; }
  ~InChunk() { in_chunk = false; }
};

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Parked workers sit in this library's code: it must stay mapped even if the worker_thread that loaded it
// ends.
void pin_library() {
#if defined(__unix__) || defined(__APPLE__)
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&pin_library), &info) != 0 && info.dli_fname != nullptr)
    dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

// Signals stay with the host's own threads.
class BlockSignals {
 public:
#if defined(__unix__) || defined(__APPLE__)
  BlockSignals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
#endif
};

}  // namespace

int available_threads() {
  static const int count = std::clamp(count_available_threads(), 1, Pool::kMaxThreads);
  return count;
}

Pool& Pool::instance() {
  static Pool* const pool = new Pool();
  return *pool;
}

Pool::Pool() : limit_(available_threads()) {}

void Pool::set_threads(int threads) {
  limit_.store(threads <= 0 ? available_threads() : std::min(threads, kMaxThreads),
               std::memory_order_relaxed);
}

int Pool::threads_for(int max_threads) const {
  return max_threads <= 0 ? threads() : std::min(max_threads, kMaxThreads);
}

void Pool::start_workers(int count) {
  if (workers_ >= count || !can_start_) return;
  if (workers_ == 0) pin_library();
  const BlockSignals blocked;
  try {
    for (; workers_ < count; ++workers_) std::thread([this] { work(); }).detach();
  } catch (const std::system_error&) {
    can_start_ = false;  // the system refuses more threads: go on with those there are
  }
}

void Pool::run(int chunks, int max_threads, FunctionRef<void(int)> body) {
  if (chunks <= 0) return;
  const int helpers = std::min(threads_for(max_threads), chunks) - 1;
  if (helpers <= 0 || in_chunk || !turn_.try_lock()) {
    for (int chunk = 0; chunk < chunks; ++chunk) body(chunk);
    return;
  }
  const std::unique_lock turn(turn_, std::adopt_lock);
  const bool hot = hot_.load(std::memory_order_relaxed) > 0;
  const Clock::time_point start = hot ? Clock::now() : Clock::time_point{};
  if (hot && start < solo_until_) {
    const InChunk nested;
    for (int chunk = 0; chunk < chunks; ++chunk) body(chunk);
    return;
  }
  start_workers(helpers);

  body_ = &body;
  chunks_ = chunks;
  error_ = nullptr;
  failed_.store(false, std::memory_order_relaxed);
  next_.store(0, std::memory_order_relaxed);
  gate_.store(kOpen | static_cast<uint32_t>(std::min(helpers, workers_)) * kPlace, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();

  const int taken = take_chunks();

  uint32_t gate = gate_.fetch_and(kInside, std::memory_order_acq_rel) & kInside;
  for (int i = 0; gate != 0 && i < kCallerPauses; ++i) {
    pause();
    gate = gate_.load(std::memory_order_acquire);
  }
  if (gate != 0) {
    const Clock::time_point done = Clock::now();
    while (gate != 0) {
      gate_.wait(gate, std::memory_order_acquire);
      gate = gate_.load(std::memory_order_acquire);
    }
    if (hot && taken > 0) note_wait((done - start) / taken, Clock::now() - done);
  }
  if (failed_.load(std::memory_order_relaxed)) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Pool::note_wait(Clock::duration chunk, Clock::duration waited) {
  if (waited < kStall || waited < kStallChunks * chunk) return;
  const Clock::time_point now = Clock::now();
  // a stall long after the last one begins anew
  const bool repeats = now < solo_until_ + 2 * solo_;
  solo_ = repeats ? std::min<Clock::duration>(2 * solo_, kLongestSolo) : kShortestSolo;
  solo_until_ = now + solo_;
}

int Pool::take_chunks() noexcept {
  const InChunk nested;
  const int chunks = chunks_;
  int taken = 0;
  for (int chunk; (chunk = next_.fetch_add(1, std::memory_order_relaxed)) < chunks; ++taken) {
    try {
      (*body_)(chunk);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
      next_.store(chunks, std::memory_order_relaxed);
    }
  }
  return taken;
}

void Pool::work() {
  give_way();
  uint32_t seen = 0;
  auto idle_since = Clock::now();
  for (int pauses = 0;; ++pauses) {
    const uint32_t epoch = epoch_.load(std::memory_order_acquire);
    if (epoch != seen) {
      seen = epoch;
      uint32_t gate = gate_.load(std::memory_order_relaxed);
      bool entered = false;
      while ((gate & kOpen) != 0 && (gate & kPlaces) != 0 && !entered)
        entered = gate_.compare_exchange_weak(gate, gate - kPlace + 1, std::memory_order_acquire);
      if (!entered) continue;
      take_chunks();
      if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1)
        gate_.notify_one();  // closed, and this was the last
      idle_since = Clock::now();
      continue;
    }
    const bool spin = hot_.load(std::memory_order_relaxed) > 0 &&
                      (pauses % kPausesBetweenClockReads != 0 || Clock::now() - idle_since < kSpin);
    if (spin) {
      pause();
      continue;
    }
    epoch_.wait(seen, std::memory_order_acquire);
    idle_since = Clock::now();
  }
}

}  // namespace crosscurrent::cpu
