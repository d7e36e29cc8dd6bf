// Random weights in every file format and their values in f64, decoded from the format tables: shares no code
// with native/.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "native/dtype.h"

namespace crosscurrent::test {

using Random = std::mt19937_64;

inline double half_value(const uint8_t* at) {
  const int bits = at[0] | at[1] << 8;
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// A finite f16 between about 2^-7 and 2^-3, now and then subnormal.
inline void random_half(Random& random, uint8_t* at) {
  const uint64_t draw = random();
  const int exponent = draw % 16 == 0 ? 0 : static_cast<int>(8 + draw / 16 % 4);
  const auto bits = static_cast<uint16_t>((draw >> 40 & 0x8000) | exponent << 10 | (draw >> 20 & 1023));
  std::memcpy(at, &bits, 2);
}

inline std::span<const int> half_offsets(DType dtype) {
  static constexpr int at0[] = {0}, at02[] = {0, 2}, at208[] = {208};
  switch (dtype) {
    case DType::q4_1:
    case DType::q5_1:
    case DType::q4_k:
    case DType::q5_k: return at02;
    case DType::q6_k: return at208;
    default: return at0;
  }
}

// [n, k] in file bytes; integers take every value of their type.
inline std::vector<std::byte> random_weights(Random& random, DType dtype, int64_t n, int64_t k) {
  const DTypeInfo info = dtype_info(dtype);
  std::vector<uint8_t> bytes(static_cast<size_t>(n * (k / info.block_elements) * info.block_bytes));
  std::normal_distribution<float> normal;
  for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(info.block_bytes)) {
    const float value = normal(random);
    switch (dtype) {
      case DType::f32: std::memcpy(&bytes[at], &value, 4); break;
      case DType::bf16: std::memcpy(&bytes[at], reinterpret_cast<const uint8_t*>(&value) + 2, 2); break;
      case DType::f16: random_half(random, &bytes[at]); break;
      default:
        for (int i = 0; i < info.block_bytes; ++i)
          bytes[at + static_cast<size_t>(i)] = static_cast<uint8_t>(random());
        for (const int offset : half_offsets(dtype))
          random_half(random, &bytes[at + static_cast<size_t>(offset)]);
    }
  }
  std::vector<std::byte> out(bytes.size());
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// One weight as the sum of two terms: what rounding errors are relative to.
struct Value {
  double scaled, offset;
  double sum() const { return scaled + offset; }
};

inline Value weight_value(DType dtype, const std::byte* data, int64_t i) {
  const DTypeInfo info = dtype_info(dtype);
  const auto* b = reinterpret_cast<const uint8_t*>(data) + i / info.block_elements * info.block_bytes;
  const int j = static_cast<int>(i % info.block_elements);
  const auto nibble = [j](const uint8_t* q) { return j < 16 ? q[j] & 15 : q[j - 16] >> 4; };
  const auto fifth = [j](const uint8_t* bits) { return (bits[j / 8] >> j % 8 & 1) << 4; };
  switch (dtype) {
    case DType::f16: return {half_value(b), 0};
    case DType::bf16:
      return {std::bit_cast<float>(static_cast<uint32_t>(b[0] << 16) | static_cast<uint32_t>(b[1]) << 24), 0};
    case DType::q8_0: return {half_value(b) * static_cast<int8_t>(b[2 + j]), 0};
    case DType::q4_0: return {half_value(b) * (nibble(b + 2) - 8), 0};
    case DType::q4_1: return {half_value(b) * nibble(b + 4), half_value(b + 2)};
    case DType::q5_0: return {half_value(b) * ((nibble(b + 6) | fifth(b + 2)) - 16), 0};
    case DType::q5_1: return {half_value(b) * (nibble(b + 8) | fifth(b + 4)), half_value(b + 2)};
    case DType::q4_k:
    case DType::q5_k: {
      const int sub = j / 32, l = j % 32;
      const uint8_t* s = b + 4;
      const int scale = sub < 4 ? s[sub] & 63 : (s[sub + 4] & 15) | (s[sub - 4] >> 6) << 4;
      const int min = sub < 4 ? s[sub + 4] & 63 : (s[sub + 4] >> 4) | (s[sub] >> 6) << 4;
      const uint8_t* low = b + (dtype == DType::q4_k ? 16 : 48);
      int q = low[sub / 2 * 32 + l] >> (sub % 2 * 4) & 15;
      if (dtype == DType::q5_k) q |= (b[16 + l] >> sub & 1) << 4;
      return {half_value(b) * scale * q, -half_value(b + 2) * min};
    }
    case DType::q6_k: {
      const int half = j / 128, quarter = j % 128 / 32, l = j % 32;
      const uint8_t* low = b + 64 * half + 32 * (quarter % 2);
      const int q = (low[l] >> (quarter / 2 * 4) & 15) | (b[128 + 32 * half + l] >> (2 * quarter) & 3) << 4;
      return {half_value(b + 208) * static_cast<int8_t>(b[192 + j / 16]) * (q - 32), 0};
    }
    default: {
      float value;
      std::memcpy(&value, b, 4);
      return {value, 0};
    }
  }
}

}  // namespace crosscurrent::test
