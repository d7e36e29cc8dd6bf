// Roofs to hold a kernel against, measured on the spot.
#pragma once

#include <cstdint>

namespace crosscurrent::cpu {

enum class Probe : int32_t { read, f32, int8 };

// Bytes or operations a second that `threads` threads (0: the pool's) reach together at best; a few tenths of
// a second. 0 where the level has no such instruction. Throws out_of_memory.
double measure(Probe probe, int threads);

}  // namespace crosscurrent::cpu
