// Instruction-set levels of the CPU kernels: detected once, forced by `set_isa`, chosen through tables of
// functions.
//
// A hot kernel has one translation unit a level (`foo_v2.cpp`, `foo_avx2.cpp`, …), each built with that
// level's flags and filling one table. Level files include only C headers, intrinsics and headers that hold
// nothing inline, and keep everything else static: a weak symbol built for a new CPU could be linked into the
// path of an old one.
#pragma once

#include <optional>
#include <string_view>

namespace crosscurrent::cpu {

// In rising order. `v2` is the portable level: on x86-64 it may use SSE4.2, elsewhere it is plain C++.
enum class Isa { v2 = 0, avx2 = 1 };

std::string_view isa_name(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);

// The best level that this CPU and operating system run.
Isa detected_isa();

// The level in use: the detected one unless forced.
Isa active_isa();

// Forces a level for the whole process; nullopt returns to the detected one. Throws `Error` above
// `detected_isa()`. Steps already running keep the level they started a kernel with; packed weights are the
// same at every level.
void set_isa(std::optional<Isa> isa);

// One table of function pointers a level; a level without its own table uses the next lower one.
template <class Kernels>
struct IsaTables {
  const Kernels* v2;
  const Kernels* avx2 = nullptr;

  const Kernels& at(Isa isa) const { return isa >= Isa::avx2 && avx2 != nullptr ? *avx2 : *v2; }
  const Kernels& active() const { return at(active_isa()); }
};

}  // namespace crosscurrent::cpu
