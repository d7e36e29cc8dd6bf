// linear: y = scale * (x weight^T + bias) + residual
#include "../ops.gen.h"
#include "matmul.h"
#include "split.h"

namespace crosscurrent::cpu {

void linear(const Linear& a, Context& context) {
  const auto& weight = *static_cast<const PackedMatrix*>(a.weight.packed);
  const bool exact = a.exact || context.precision == Precision::exact;
  const Activations activations = exact ? Activations::exact : Activations::fast;
  const size_t scratch_bytes = matmul_scratch_bytes(weight.plan, a.rows, activations);
  matmul({.weight = &weight,
          .x = a.x.f32(),
          .x_stride = a.x.row_stride,
          .m = a.rows,
          .y = a.y.f32(),
          .y_stride = a.y.row_stride,
          .bias = a.bias ? a.bias.f32() : nullptr,
          .activations = activations,
          .scratch = {context.workspace.take<std::byte>(static_cast<int64_t>(scratch_bytes)), scratch_bytes},
          .threads = context.threads});
  if (a.scale == 1.0f && !a.residual) return;
  for_ranges(context, a.rows, a.out, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* y = a.y.f32(row);
      for (int64_t i = 0; i < a.out; ++i) y[i] *= a.scale;
      if (!a.residual) continue;
      const float* residual = a.residual.f32(row);
      for (int64_t i = 0; i < a.out; ++i) y[i] += residual[i];
    }
  });
}

}  // namespace crosscurrent::cpu
