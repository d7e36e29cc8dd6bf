#include "native/cpu/pool.h"

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <mutex>
#include <optional>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "harness.h"
#include "native/cpu/isa.h"

namespace crosscurrent::cpu {
namespace {

using test::expect;
using test::expect_equal;
using test::expect_error;
using test::Test;

Pool& pool() { return Pool::instance(); }

double process_cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

void expect_each_once(int chunks, int threads) {
  std::vector<std::atomic<int>> calls(static_cast<size_t>(chunks));
  pool().run(chunks, threads, [&](int chunk) { calls[static_cast<size_t>(chunk)].fetch_add(1); });
  for (const auto& count : calls) expect_equal(count.load(), 1, "calls of a chunk");
}

const Test each_once("pool: every chunk runs once, for any chunk and thread count", [] {
  for (const int threads : {0, 1, 2, 3, 8}) {
    for (const int chunks : {0, 1, 2, 7, 1000}) expect_each_once(chunks, threads);
  }
});

const Test many_regions("pool: thousands of short regions, hot and parked", [] {
  for (const bool hot : {false, true}) {
    std::optional<Pool::StepScope> step;
    if (hot) step.emplace();
    int64_t total = 0;
    for (int i = 0; i < 3000; ++i) {
      std::atomic<int> sum{0};
      pool().run(5, 3, [&](int chunk) { sum.fetch_add(chunk, std::memory_order_relaxed); });
      total += sum.load();
    }
    expect_equal(total, int64_t{30000}, "sum of chunks");
  }
});

const Test one_thread("pool: one thread means the caller alone", [] {
  const auto caller = std::this_thread::get_id();
  pool().run(64, 1, [&](int) { expect(std::this_thread::get_id() == caller, "on the caller"); });
  pool().set_threads(1);
  expect_equal(pool().threads(), 1, "threads()");
  pool().run(64, 0, [&](int) { expect(std::this_thread::get_id() == caller, "on the caller"); });
  pool().set_threads(0);
  expect_equal(pool().threads(), available_threads(), "default threads()");
});

const Test limit("pool: at most max_threads threads, and helpers do help", [] {
  for (const int threads : {2, 4}) {
    std::mutex mutex;
    std::set<std::thread::id> seen;
    // A long chunk: even a helper that has to be woken on a busy machine comes in time for one.
    for (int attempt = 0; attempt < 20 && seen.size() < 2; ++attempt) {
      pool().run(threads * 4, threads, [&](int) {
        sleep_ms(2);
        const std::lock_guard lock(mutex);
        seen.insert(std::this_thread::get_id());
      });
    }
    expect(seen.size() >= 2 && seen.size() <= 256, "more than one thread took part");
  }
  std::atomic<int> inside{0}, most{0};
  pool().run(40, 2, [&](int) {
    const int now = inside.fetch_add(1) + 1;
    int seen = most.load();
    while (now > seen && !most.compare_exchange_weak(seen, now)) {
    }
    sleep_ms(1);
    inside.fetch_sub(1);
  });
  expect(most.load() <= 2, "threads at once");
});

const Test exceptions("pool: the first exception reaches the caller, the pool goes on", [] {
  for (int i = 0; i < 200; ++i) {
    expect_error(Code::invalid_state, [] {
      pool().run(50, 4, [](int chunk) {
        if (chunk == 20) throw Error(Code::invalid_state, "chunk 20");
      });
    });
  }
  expect_each_once(100, 4);
});

const Test nested("pool: a region inside a chunk runs on its thread", [] {
  std::atomic<int> inner{0};
  pool().run(8, 4, [&](int) {
    const auto outer = std::this_thread::get_id();
    pool().run(10, 4, [&](int) {
      expect(std::this_thread::get_id() == outer, "inner chunk on the outer chunk's thread");
      inner.fetch_add(1);
    });
  });
  expect_equal(inner.load(), 80, "inner chunks");
});

const Test callers("pool: several callers at once are each served completely", [] {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int caller = 0; caller < 4; ++caller) {
    threads.emplace_back([&wrong, caller] {
      for (int i = 0; i < 500; ++i) {
        const int chunks = 1 + (i + caller) % 9;
        std::atomic<int> sum{0};
        pool().run(chunks, 3, [&](int chunk) { sum.fetch_add(chunk + 1); });
        if (sum.load() != chunks * (chunks + 1) / 2) wrong.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect_equal(wrong.load(), 0, "regions with a wrong sum");
});

// In a step, a worker that keeps a chunk long after the caller's are done has lost its core.
const Test stall("pool: after a stall the caller goes on alone, then not", [] {
  const Pool::StepScope step;
  const auto caller = std::this_thread::get_id();
  const auto helped = [&](int helper_ms) {
    std::atomic<int> count{0};
    pool().run(64, 2, [&](int) {
      const bool is_caller = std::this_thread::get_id() == caller;
      if (!is_caller) count.fetch_add(1);
      if (is_caller)
        std::this_thread::sleep_for(std::chrono::microseconds(500));
      else
        sleep_ms(helper_ms);
    });
    return count.load() > 0;
  };
  bool stalled = false;
  for (int attempt = 0; attempt < 20 && !stalled; ++attempt) {
    stalled = helped(80);
    sleep_ms(stalled ? 0 : 20);
  }
  expect(stalled, "a worker takes part");
  expect(!helped(0), "on the caller alone");
  bool again = false;
  for (int attempt = 0; attempt < 20 && !again; ++attempt) {
    sleep_ms(20);
    again = helped(0);
  }
  expect(again, "with the worker again");
});

const Test idle("pool: no CPU time when idle, even inside a step that waits", [] {
  {
    const Pool::StepScope step;
    expect_each_once(100, 4);
    const double before = process_cpu_seconds();
    sleep_ms(200);
    expect(process_cpu_seconds() - before < 0.05, "workers stop spinning inside a step");
  }
  expect_each_once(100, 4);
  sleep_ms(5);
  const double before = process_cpu_seconds();
  sleep_ms(200);
  expect(process_cpu_seconds() - before < 0.005, "parked workers use no CPU");
});

const Test exit_while_busy("pool: the process exits while workers are in a chunk", [] {
  // This program ends with its workers busy: a pool that joined them at exit would hang here.
  std::thread([] { pool().run(1000000, 4, [](int) { sleep_ms(1); }); }).detach();
  sleep_ms(20);
});

const Test levels("isa: names, detection, forcing", [] {
  expect(parse_isa("v2") == Isa::v2 && parse_isa("avx2") == Isa::avx2 && !parse_isa("sse9"), "names");
  expect(active_isa() == detected_isa(), "default");
  set_isa(Isa::v2);
  expect(active_isa() == Isa::v2, "forced");
  set_isa(std::nullopt);
  for (const Isa isa : {Isa::avx2, Isa::avx_vnni, Isa::avx512_vnni, Isa::dotprod})
    if (!is_available(isa)) expect_error(Code::invalid_argument, [&] { set_isa(isa); });
});

}  // namespace
}  // namespace crosscurrent::cpu
