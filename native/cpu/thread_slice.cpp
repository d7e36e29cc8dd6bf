#include "thread_slice.h"

#include <algorithm>
#include <cstdint>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace crosscurrent::cpu {
namespace {

constexpr uint64_t kLongNs = 20'000'000;
constexpr uint64_t kShortNs = 100'000;  // the shortest there is
constexpr int kNicer = 10;              // a tenth of the weight of a thread of nice 0

#if defined(__linux__) && defined(SYS_sched_setattr)
// struct sched_attr, first version, as sched_setattr(2) gives it; C libraries before glibc 2.41 do not.
struct SchedulingAttributes {
  uint32_t size = sizeof(SchedulingAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime = 0;  // of a normal thread: its slice in nanoseconds
  uint64_t deadline = 0;
  uint64_t period = 0;
};

constexpr int kMostNice = 19;
constexpr uint32_t kNormal = 0;       // SCHED_OTHER
constexpr uint64_t kResetOnFork = 1;  // SCHED_FLAG_RESET_ON_FORK

void set_slice(uint64_t ns, uint64_t flags, int nicer) {
  SchedulingAttributes attributes;
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  if (attributes.policy != kNormal || attributes.nice < 0) return;
  attributes.runtime = ns;
  attributes.nice = std::min(attributes.nice + nicer, kMostNice);
  attributes.flags |= flags;
  syscall(SYS_sched_setattr, 0, &attributes, 0);  // refused: as before
}
#else
constexpr uint64_t kResetOnFork = 0;

void set_slice(uint64_t, uint64_t, int) {}
#endif

}  // namespace

void give_way() { set_slice(kLongNs, 0, kNicer); }

void run_at_once() { set_slice(kShortNs, kResetOnFork, 0); }

}  // namespace crosscurrent::cpu
