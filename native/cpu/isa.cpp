#include "isa.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "../error.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace crosscurrent::cpu {
namespace {

constexpr std::array<std::string_view, 5> kNames = {"v2", "avx2", "avx-vnni", "avx512-vnni", "dotprod"};

constexpr int kNotForced = -1;
std::atomic<int> forced{kNotForced};
thread_local int forced_here = kNotForced;

std::vector<Isa> detect() {
  std::vector<Isa> found = {Isa::v2};
#if defined(__x86_64__)
  __builtin_cpu_init();  // reads cpuid and, for the wide registers, what the system saves (xgetbv)
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c") ||
      !__builtin_cpu_supports("bmi2"))
    return found;
  found.push_back(Isa::avx2);
  if (__builtin_cpu_supports("avxvnni")) found.push_back(Isa::avx_vnni);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    found.push_back(Isa::avx512_vnni);
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if ((getauxval(AT_HWCAP) & kDotProduct) != 0) found.push_back(Isa::dotprod);
#elif defined(__aarch64__)
  found.push_back(Isa::dotprod);  // every Apple chip that runs macOS
#endif
  return found;
}

}  // namespace

std::string_view isa_name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

std::optional<Isa> parse_isa(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Isa>(i);
  }
  return std::nullopt;
}

std::span<const Isa> available_isas() {
  static const std::vector<Isa> levels = detect();
  return levels;
}

bool is_available(Isa isa) {
  const auto levels = available_isas();
  return std::find(levels.begin(), levels.end(), isa) != levels.end();
}

Isa detected_isa() { return available_isas().back(); }

IsaScope::IsaScope(std::optional<Isa> isa) : before_(forced_here) {
  if (isa) forced_here = static_cast<int>(*isa);
}
IsaScope::~IsaScope() { forced_here = before_; }

Isa active_isa() {
  if (forced_here != kNotForced) return static_cast<Isa>(forced_here);
  const int isa = forced.load(std::memory_order_relaxed);
  return isa == kNotForced ? detected_isa() : static_cast<Isa>(isa);
}

Isa required_isa(std::string_view name) {
  const std::optional<Isa> isa = parse_isa(name);
  if (isa && is_available(*isa)) return *isa;
  std::string names;
  for (const Isa level : available_isas())
    names += (names.empty() ? "" : ", ") + std::string(isa_name(level));
  throw Error(Code::invalid_argument, "isa", names + " (this CPU)", std::string(name));
}

void set_isa(std::optional<Isa> isa) {
  if (isa) required_isa(isa_name(*isa));
  forced.store(isa ? static_cast<int>(*isa) : kNotForced, std::memory_order_relaxed);
}

}  // namespace crosscurrent::cpu
