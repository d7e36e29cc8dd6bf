#include "isa.h"

#include <array>
#include <atomic>
#include <string>

#include "../error.h"

namespace crosscurrent::cpu {
namespace {

constexpr std::array<std::string_view, 2> kNames = {"v2", "avx2"};

// -1: not forced.
std::atomic<int> forced{-1};

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();  // reads cpuid and, for the wide registers, what the system saves (xgetbv)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("bmi2")) {
    return Isa::avx2;
  }
#endif
  return Isa::v2;
}

}  // namespace

std::string_view isa_name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

std::optional<Isa> parse_isa(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Isa>(i);
  }
  return std::nullopt;
}

Isa detected_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa active_isa() {
  const int isa = forced.load(std::memory_order_relaxed);
  return isa < 0 ? detected_isa() : static_cast<Isa>(isa);
}

void set_isa(std::optional<Isa> isa) {
  if (isa && *isa > detected_isa()) {
    throw Error(Code::invalid_argument, "isa",
                "at most " + std::string(isa_name(detected_isa())) + " (this CPU)",
                std::string(isa_name(*isa)));
  }
  forced.store(isa ? static_cast<int>(*isa) : -1, std::memory_order_relaxed);
}

}  // namespace crosscurrent::cpu
