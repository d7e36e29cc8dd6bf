#include "quantize.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>

#include "../error.h"
#include "dequantize.h"

namespace crosscurrent {

namespace {

template <class T>
void store(std::byte* p, T value) {
  std::memcpy(p, &value, sizeof value);
}

uint16_t half_of(float x) {
  const uint16_t half = f16_from_f32(x);
  if (std::isinf(f32_from_f16(half))) {
    throw Error(Code::invalid_argument, "row", "values and scales that f16 holds", std::to_string(x));
  }
  return half;
}

// Integers are chosen for the scale as stored, in f16, so that its rounding is not added to theirs.
int nearest(float x, float scale, int least, int most) {
  if (scale == 0) return 0;
  return static_cast<int>(
      std::clamp(std::round(x / scale), static_cast<float>(least), static_cast<float>(most)));
}

void q8_0(const float* x, std::byte* b) {
  float largest = 0;
  for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(x[i]));
  const uint16_t d = half_of(largest / 127);
  store(b, d);
  for (int i = 0; i < 32; ++i)
    store(b + 2 + i, static_cast<int8_t>(nearest(x[i], f32_from_f16(d), -127, 127)));
}

void q4_1(const float* x, std::byte* b) {
  const auto [least, most] = std::minmax_element(x, x + 32);
  const uint16_t m = half_of(*least);
  const uint16_t d = half_of((*most - f32_from_f16(m)) / 15);
  store(b, d);
  store(b + 2, m);
  const auto code = [&](int i) { return nearest(x[i] - f32_from_f16(m), f32_from_f16(d), 0, 15); };
  for (int i = 0; i < 16; ++i) b[4 + i] = static_cast<std::byte>(code(i) | code(16 + i) << 4);
}

void block(DType dtype, const float* x, std::byte* b) {
  if (dtype == DType::f32) store(b, *x);
  if (dtype == DType::f16) store(b, half_of(*x));
  if (dtype == DType::bf16) store(b, bf16_from_f32(*x));
  if (dtype == DType::q8_0) q8_0(x, b);
  if (dtype == DType::q4_1) q4_1(x, b);
}

}  // namespace

void quantize_row(DType dtype, std::span<const float> row, std::span<std::byte> stored) {
  const DTypeInfo info = dtype_info(dtype);
  constexpr DType kTargets[] = {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_1};
  if (std::find(std::begin(kTargets), std::end(kTargets), dtype) == std::end(kTargets)) {
    throw Error(Code::invalid_argument, "dtype", "f32, f16, bf16, q8_0 or q4_1", std::string(info.name));
  }
  const auto elements = static_cast<size_t>(info.block_elements),
             bytes = static_cast<size_t>(info.block_bytes);
  if (row.size() % elements != 0 || stored.size() != row.size() / elements * bytes) {
    throw Error(Code::invalid_argument, "row",
                "a multiple of " + std::to_string(elements) + " elements and " + std::to_string(bytes) +
                    " bytes for each",
                std::to_string(row.size()) + " elements, " + std::to_string(stored.size()) + " bytes");
  }
  for (const float x : row) {
    if (!std::isfinite(x)) throw Error(Code::invalid_argument, "row", "finite values", std::to_string(x));
  }
  for (size_t i = 0; i < row.size() / elements; ++i) block(dtype, &row[i * elements], &stored[i * bytes]);
}

}  // namespace crosscurrent
