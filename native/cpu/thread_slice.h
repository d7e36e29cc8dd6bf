// Who gives way to whom when a thread wakes and every core computes.
#pragma once

namespace crosscurrent::cpu {

// Linux lets a running thread finish its time slice before one that wakes gets the core, several
// milliseconds, unless the waking one asks for shorter slices (EEVDF, Linux >= 6.12) and has not had more
// than its share of late. No effect elsewhere, or on a thread that somebody gave another policy or a raised
// priority.

// For threads that compute: long slices and nice 10 more, so that a thread of the host that has just been
// busy still comes first. Shares count within a control group: a service or a container keeps its own.
void give_way();

// For the thread of an event loop: short slices, so that it runs as soon as it wakes. Threads and processes
// that it starts begin as usual.
void run_at_once();

}  // namespace crosscurrent::cpu
