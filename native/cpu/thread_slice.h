// Who gives way to whom when a thread wakes and every core computes.
#pragma once

namespace crosscurrent::cpu {

// Linux lets a running thread finish its time slice before one that wakes gets the core, several
// milliseconds, unless the waking one asks for shorter slices (EEVDF, Linux >= 6.12). Shares of the processor
// stay the same. No effect elsewhere, or on a thread that somebody gave another policy or a raised priority.

// For threads that compute: they give way at once.
void prefer_long_slice();

// For the thread of an event loop: it runs as soon as it wakes. Threads and processes that it starts begin as
// usual.
void prefer_short_slice();

}  // namespace crosscurrent::cpu
