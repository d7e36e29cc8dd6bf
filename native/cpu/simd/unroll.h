// Loops unrolled by the front end. Unnamed namespace: every level's file has its own copy (see isa.h).
#pragma once

namespace crosscurrent::cpu {
namespace {

template <int kValue>
struct Constant {
  constexpr operator int() const { return kValue; }
};

// body(Constant<0>{}) … body(Constant<kCount - 1>{}): an unrolled loop whose arrays live in registers. A
// pragma comes too late for that: the compiler has already put the array in memory.
template <int kCount, class Body>
__attribute__((always_inline)) inline void each(const Body& body) {
  if constexpr (kCount > 1) each<kCount - 1>(body);
  body(Constant<kCount - 1>{});
}

}  // namespace
}  // namespace crosscurrent::cpu
