// Row ranges over the pool: kernels whose rows are independent.
#pragma once

#include <algorithm>
#include <cstdint>

#include "context.h"
#include "pool.h"

namespace crosscurrent::cpu {

// Calls body(begin, end) for ranges that cover [0, count). `cost` is the work of one item in elementary
// vector-loop steps: less than kGrain of it is not worth waking a thread.
template <class Body>
void for_ranges(const Context& context, int64_t count, int64_t cost, const Body& body) {
  constexpr int64_t kGrain = 1 << 15;
  const int64_t items = std::max<int64_t>(1, kGrain / std::max<int64_t>(cost, 1));
  const int64_t chunks = (count + items - 1) / items;
  if (chunks <= 1 || context.threads == 1) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
  Pool::instance().run(static_cast<int>(chunks), context.threads,
                       [&](int chunk) { body(chunk * items, std::min(count, (chunk + 1) * items)); });
}

}  // namespace crosscurrent::cpu
