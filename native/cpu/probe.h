// Roofs to hold a kernel against, measured on the spot.
#pragma once

#include <cstdint>

namespace crosscurrent::cpu {

enum class Probe : int32_t { read, f32, int8 };

// Bytes or operations a second that `threads` threads (0: the pool's) reach together at best; a few tenths of
// a second. 0 where the level has no such instruction. Throws out_of_memory.
double measure(Probe probe, int threads);

// Nanoseconds in which a cache line that one core wrote is seen by another: the median over the pairs of
// cores that this process may use. 0 where there is one core, or where threads cannot be tied to cores.
double measure_core_latency_ns();

}  // namespace crosscurrent::cpu
