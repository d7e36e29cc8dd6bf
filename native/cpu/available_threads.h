// How many cores the operating system grants this process; see `available_threads()` in pool.h.
#pragma once

namespace crosscurrent::cpu {

int count_available_threads();

}  // namespace crosscurrent::cpu
