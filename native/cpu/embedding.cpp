// embedding: y[t, :] = scale * weight[ids[t], :]
#include <string>

#include "../error.h"
#include "../ops.gen.h"
#include "pack.h"
#include "split.h"

namespace crosscurrent::cpu {

void embedding(const Embedding& a, Context& context) {
  const auto& weight = *static_cast<const PackedMatrix*>(a.weight.packed);
  for (int64_t row = 0; row < a.t; ++row) {
    const int32_t id = *a.ids.i32(row);
    if (id < 0 || id >= a.vocab)
      throw Error(Code::token_out_of_range, "embedding: ids", "0.." + std::to_string(a.vocab - 1),
                  std::to_string(id));
  }
  for_ranges(context, a.t, a.dim, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = a.y.f32(row);
      unpack_row(weight, 0, *a.ids.i32(row), y);
      if (a.scale != 1.0f)
        for (int64_t i = 0; i < a.dim; ++i) y[i] *= a.scale;
    }
  });
}

}  // namespace crosscurrent::cpu
