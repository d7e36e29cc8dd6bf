#include "row_quant.h"

namespace crosscurrent::cpu {
namespace {

constexpr int64_t kGroupSize = 32;

size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

size_t row_quant_bytes(int64_t m, int64_t k) {
  const auto elements = static_cast<size_t>(m * k), groups = static_cast<size_t>(m * (k / kGroupSize));
  return round_up(elements) + 3 * round_up(groups * 4);
}

RowQuantView row_quant_view(std::byte* memory, int64_t m, int64_t k) {
  const auto elements = static_cast<size_t>(m * k), groups = static_cast<size_t>(m * (k / kGroupSize));
  const auto take = [&memory](size_t bytes) {
    std::byte* const from = memory;
    memory += round_up(bytes);
    return from;
  };
  RowQuantView rows{};
  rows.q = reinterpret_cast<int8_t*>(take(elements));
  rows.scale = reinterpret_cast<float*>(take(groups * 4));
  rows.sum = reinterpret_cast<float*>(take(groups * 4));
  rows.sum8 = reinterpret_cast<int32_t*>(take(groups * 4));
  rows.k = k;
  rows.groups = k / kGroupSize;
  return rows;
}

RowQuantView row_quant_from(const RowQuantView& rows, int64_t row) {
  RowQuantView from = rows;
  from.q += row * rows.k;
  from.scale += row * rows.groups;
  from.sum += row * rows.groups;
  from.sum8 += row * rows.groups;
  return from;
}

}  // namespace crosscurrent::cpu
