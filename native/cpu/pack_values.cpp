#include "pack_values.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "../error.h"
#include "../weights/dequantize.h"
#include "memory.h"
#include "pool.h"

namespace crosscurrent::cpu {
namespace {

[[noreturn]] void wrong(const std::string& operand, const std::string& expected, const std::string& got) {
  throw Error(Code::invalid_argument, operand, expected, got);
}

bool fits_f16(float value) { return f32_from_f16(f16_from_f32(value)) == value; }

float rounded_f16(const std::string& operand, float value) {
  const float rounded = f32_from_f16(f16_from_f32(value));
  if (!std::isfinite(rounded)) wrong(operand, "values and scales that f16 holds", std::to_string(value));
  return rounded;
}

void check_size(const std::string& operand, int64_t expected, size_t got) {
  if (static_cast<int64_t>(got) != expected)
    wrong(operand, std::to_string(expected) + " elements", std::to_string(got));
}

// body(expert, row of it, row of all), a panel of rows at a time over the pool.
template <class Body>
void for_rows(const GroupShape& shape, Cancel cancel, const Body& body) {
  const int64_t panels = (shape.n + kPanel - 1) / kPanel;
  Pool::instance().run(static_cast<int>(shape.experts * panels), 0, [&](int chunk) {
    if (cancel.load(std::memory_order_relaxed)) throw Error(Code::aborted, "packing was cancelled");
    const int64_t expert = chunk / panels, first = chunk % panels * kPanel;
    for (int64_t row = first; row < std::min(first + kPanel, shape.n); ++row)
      body(expert, row, expert * shape.n + row);
  });
}

// Integers, scales and mins of one row in groups of kGroup.
struct Row {
  std::vector<int8_t> q;
  std::vector<float> scale, min;
  explicit Row(int64_t k)
      : q(static_cast<size_t>(k)), scale(static_cast<size_t>(k / kGroup)), min(scale.size()) {}
};

void quantize_group(const std::string& operand, const GroupShape& shape, const float* x, bool is_symmetric,
                    int8_t* q, float& scale, float& min) {
  float least = x[0], most = x[0];
  for (int64_t i = 0; i < shape.group; ++i) {
    if (!std::isfinite(x[i])) wrong(operand, "finite values", std::to_string(x[i]));
    least = std::min(least, x[i]);
    most = std::max(most, x[i]);
  }
  const auto code = [&](float value, int low, int high) {
    return scale == 0 ? std::clamp(0, low, high)
                      : static_cast<int>(std::clamp(std::round(value / scale), static_cast<float>(low),
                                                    static_cast<float>(high)));
  };
  if (is_symmetric) {
    const int high = shape.bits == 4 ? 7 : 127, zero = shape.bits == 4 ? 8 : 0;
    scale = rounded_f16(operand, std::max(-least, most) / static_cast<float>(high));
    for (int64_t i = 0; i < shape.group; ++i) q[i] = static_cast<int8_t>(code(x[i], -high, high) + zero);
    return;
  }
  min = rounded_f16(operand, least);
  scale = rounded_f16(operand, (most - min) / 15);
  for (int64_t i = 0; i < shape.group; ++i) q[i] = static_cast<int8_t>(code(x[i] - min, 0, 15));
}

}  // namespace

void check_groups(const std::string& call, const GroupShape& shape, int64_t elements) {
  constexpr int64_t kMostSide = int64_t{1} << 31;
  for (const int64_t side : {shape.experts, shape.n, shape.k})
    if (side < 1 || side >= kMostSide) wrong(call + ": shape", "sides of 1..2^31 - 1", std::to_string(side));
  if (shape.group < 1 || shape.group % kGroup != 0)
    wrong(call + ": group", "a multiple of " + std::to_string(kGroup), std::to_string(shape.group));
  if (shape.k % shape.group != 0)
    wrong(call + ": group", "a divisor of in = " + std::to_string(shape.k), std::to_string(shape.group));
  if (elements % shape.k != 0 || elements / shape.k % shape.n != 0 ||
      elements / shape.k / shape.n != shape.experts)
    wrong(call + ": shape",
          std::to_string(shape.experts) + " x " + std::to_string(shape.n) + " x " + std::to_string(shape.k) +
              " elements",
          std::to_string(elements));
  if (shape.experts * ((shape.n + kPanel - 1) / kPanel) >= kMostSide)
    wrong(call + ": shape", "fewer rows", "more than 2^35");
}

PackedMatrix pack_groups(const std::string& call, const GroupShape& shape, std::span<const uint8_t> q,
                         std::span<const float> scales, std::span<const uint8_t> zeros, Cancel cancel) {
  const int64_t groups = shape.k / shape.group, all = shape.experts * shape.n * groups;
  check_size(call + ": values", shape.experts * shape.n * shape.k, q.size());
  check_size(call + ": scales", all, scales.size());
  if (!zeros.empty()) check_size(call + ": zeros", all, zeros.size());
  bool has_min = false, wide = false;
  for (size_t i = 0; i < scales.size(); ++i) {
    const int zero = zeros.empty() ? 8 : zeros[i];
    if (!std::isfinite(scales[i])) wrong(call + ": scales", "finite values", std::to_string(scales[i]));
    if (zero > 15) wrong(call + ": zeros", "0..15", std::to_string(zero));
    has_min = has_min || zero != 8;
    wide = wide || !fits_f16(scales[i]) || !fits_f16(scales[i] * static_cast<float>(zero));
  }
  if (shape.bits == 8) has_min = wide = false;
  const ValuesFormat format{shape.bits == 4, has_min || wide, wide};
  PackPlan plan = plan_values(format, shape.experts, shape.n, shape.k);
  require_memory("packed weight", plan.bytes);
  PackedMatrix matrix = allocate_packed(std::move(plan));
  for_rows(shape, cancel, [&](int64_t expert, int64_t row, int64_t index) {
    Row to(shape.k);
    for (int64_t i = 0; i < shape.k; ++i) {
      const uint8_t value = q[static_cast<size_t>(index * shape.k + i)];
      if (shape.bits == 4 && value > 15) wrong(call + ": values", "0..15", std::to_string(value));
      to.q[static_cast<size_t>(i)] = static_cast<int8_t>(value);
    }
    for (size_t g = 0; g < to.scale.size(); ++g) {
      const auto from = static_cast<size_t>(index * groups) + g * kGroup / static_cast<size_t>(shape.group);
      to.scale[g] = wide ? scales[from] : rounded_f16(call + ": scales", scales[from]);
      to.min[g] = -(to.scale[g] * static_cast<float>(zeros.empty() ? 8 : zeros[from]));
    }
    pack_values(matrix, expert, row, to.q.data(), to.scale.data(), to.min.data());
  });
  return matrix;
}

PackedMatrix quantize_groups(const std::string& call, const GroupShape& shape, std::span<const float> values,
                             bool is_symmetric, Cancel cancel) {
  check_size(call + ": weight", shape.experts * shape.n * shape.k, values.size());
  if (shape.bits == 8 && !is_symmetric) wrong(call + ": symmetric", "true with 8 bits", "false");
  PackPlan plan = plan_values({shape.bits == 4, !is_symmetric, false}, shape.experts, shape.n, shape.k);
  require_memory("packed weight", plan.bytes);
  PackedMatrix matrix = allocate_packed(std::move(plan));
  for_rows(shape, cancel, [&](int64_t expert, int64_t row, int64_t index) {
    Row to(shape.k);
    for (int64_t at = 0; at < shape.k; at += shape.group) {
      float scale = 0, min = 0;
      quantize_group(call + ": weight", shape, &values[static_cast<size_t>(index * shape.k + at)],
                     is_symmetric, &to.q[static_cast<size_t>(at)], scale, min);
      std::fill_n(&to.scale[static_cast<size_t>(at / kGroup)], shape.group / kGroup, scale);
      std::fill_n(&to.min[static_cast<size_t>(at / kGroup)], shape.group / kGroup, min);
    }
    pack_values(matrix, expert, row, to.q.data(), to.scale.data(), to.min.data());
  });
  return matrix;
}

}  // namespace crosscurrent::cpu
