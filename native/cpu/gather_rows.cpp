// gather_rows: y[r, :] = x[index[r], :]
#include <cstring>
#include <string>

#include "../error.h"
#include "../ops.gen.h"
#include "context.h"

namespace crosscurrent::cpu {

void gather_rows(const GatherRows& a, Context&) {
  for (int64_t row = 0; row < a.rows; ++row) {
    const int32_t from = *a.index.i32(row);
    if (from < 0 || from >= a.t)
      throw Error(Code::invalid_argument, "gather_rows: index", "0.." + std::to_string(a.t - 1),
                  std::to_string(from));
    std::memcpy(a.y.f32(row), a.x.f32(from), static_cast<size_t>(a.dim) * sizeof(float));
  }
}

}  // namespace crosscurrent::cpu
