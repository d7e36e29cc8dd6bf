// Instruction-set levels of the CPU kernels: detected once, forced by `set_isa`, chosen through tables of
// functions.
//
// A hot kernel has one translation unit a level (`foo_v2.cpp`, `foo_avx2.cpp`, …), each built with that
// level's flags and filling one table. Level files include only C headers, intrinsics and headers that hold
// nothing inline, and keep everything else static: a weak symbol built for a new CPU could be linked into the
// path of an old one.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace crosscurrent::cpu {

// `v2` is the portable level: on x86-64 it may use SSE4.2, elsewhere it is plain C++. The others need, on
// x86-64:
//   avx2         AVX2, FMA, F16C, BMI2
//   avx_vnni     avx2 and AVX-VNNI
//   avx512_vnni  avx2 and AVX-512 F, BW, DQ, VL, VNNI
// and on arm64:
//   dotprod      NEON with sdot (Armv8.2)
enum class Isa { v2, avx2, avx_vnni, avx512_vnni, dotprod };

std::string_view isa_name(Isa isa);
std::optional<Isa> parse_isa(std::string_view name);

// The levels that this CPU and operating system run, from the portable one to the best.
std::span<const Isa> available_isas();
bool is_available(Isa isa);
Isa required_isa(std::string_view name);  // throws `Error`, naming those there are
Isa detected_isa();                       // the best of them

// The level in use: the detected one unless forced.
Isa active_isa();

// While it lives, the calling thread uses this level where one is given, whatever the process does. Work
// handed to the pool needs a scope of its own there.
class IsaScope {
 public:
  explicit IsaScope(std::optional<Isa> isa);
  ~IsaScope();
  IsaScope(const IsaScope&) = delete;
  IsaScope& operator=(const IsaScope&) = delete;

 private:
  int before_;
};

// Forces a level for the whole process; nullopt returns to the detected one. Throws `Error` for one that is
// not available. Steps already running keep the level they started a kernel with; packed weights are the same
// at every level.
void set_isa(std::optional<Isa> isa);

// One table of function pointers a level; a level without its own table uses that of the one it extends.
template <class Kernels>
struct IsaTables {
  const Kernels* v2;
  const Kernels* avx2 = nullptr;
  const Kernels* avx_vnni = nullptr;
  const Kernels* avx512_vnni = nullptr;
  const Kernels* dotprod = nullptr;

  const Kernels& at(Isa isa) const {
    if (isa == Isa::avx512_vnni && avx512_vnni != nullptr) return *avx512_vnni;
    if (isa == Isa::avx_vnni && avx_vnni != nullptr) return *avx_vnni;
    if (isa == Isa::dotprod) return dotprod != nullptr ? *dotprod : *v2;
    return isa >= Isa::avx2 && avx2 != nullptr ? *avx2 : *v2;
  }
  const Kernels& active() const { return at(active_isa()); }
};

}  // namespace crosscurrent::cpu
