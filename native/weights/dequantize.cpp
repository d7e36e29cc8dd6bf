// Blocks of GGUF: see https://github.com/ggml-org/ggml, ggml-common.h. d, m: scale and min of a block; q: its
// integers.
#include "dequantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <string>

#include "../error.h"

namespace crosscurrent {

namespace {

template <class T>
T load(const std::byte* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float half(const std::byte* p) { return f32_from_f16(load<uint16_t>(p)); }
int u8(std::byte b) { return std::to_integer<int>(b); }
int i8(std::byte b) { return static_cast<int8_t>(b); }
int low(std::byte b) { return u8(b) & 15; }
int high(std::byte b) { return u8(b) >> 4; }

// Byte i of 16 holds element i in its low and element 16 + i in its high half.
int nibble(const std::byte* q, int i) { return i < 16 ? low(q[i]) : high(q[i - 16]); }
int fifth_bit(uint32_t bits, int i) { return static_cast<int>(bits >> i & 1) << 4; }

void q8_0(const std::byte* b, float* y) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(i8(b[2 + i]));
}

void q4_0(const std::byte* b, float* y) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(nibble(b + 2, i) - 8);
}

void q4_1(const std::byte* b, float* y) {
  const float d = half(b), m = half(b + 2);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(nibble(b + 4, i)) + m;
}

void q5_0(const std::byte* b, float* y) {
  const float d = half(b);
  const auto bits = load<uint32_t>(b + 2);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>((nibble(b + 6, i) | fifth_bit(bits, i)) - 16);
}

void q5_1(const std::byte* b, float* y) {
  const float d = half(b), m = half(b + 2);
  const auto bits = load<uint32_t>(b + 4);
  for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(nibble(b + 8, i) | fifth_bit(bits, i)) + m;
}

struct ScaleMin {
  int scale, min;  // 6 bits each
};

// 8 pairs in 12 bytes: the first four plainly, of the others 4 bits each and their upper 2 bits in the first
// eight bytes.
ScaleMin scale_min(const std::byte* b, int j) {
  if (j < 4) return {u8(b[j]) & 63, u8(b[j + 4]) & 63};
  return {low(b[j + 4]) | u8(b[j - 4]) >> 6 << 4, high(b[j + 4]) | u8(b[j]) >> 6 << 4};
}

// q4_k and q5_k: 8 groups of 32. Groups 2 i and 2 i + 1 are the low and high halves of the same 32 bytes.
template <bool has_fifth_bit>
void q45_k(const std::byte* b, float* y) {
  const float d = half(b), d_min = half(b + 2);
  const std::byte* scales = b + 4;
  const std::byte* fifth = b + 16;
  const std::byte* q = has_fifth_bit ? b + 48 : b + 16;
  for (int j = 0; j < 8; ++j) {
    const auto [scale, min] = scale_min(scales, j);
    const float ds = d * static_cast<float>(scale), dm = d_min * static_cast<float>(min);
    for (int i = 0; i < 32; ++i) {
      const std::byte pair = q[j / 2 * 32 + i];
      int value = j % 2 == 0 ? low(pair) : high(pair);
      if constexpr (has_fifth_bit) value |= (u8(fifth[i]) >> j & 1) << 4;
      y[j * 32 + i] = ds * static_cast<float>(value) - dm;
    }
  }
}

// Two halves of 128 elements; a half is 4 groups of 32 whose lower 4 bits lie in 64 bytes and upper 2 bits
// in 32.
void q6_k(const std::byte* b, float* y) {
  const float d = half(b + 208);
  for (int h = 0; h < 2; ++h) {
    const std::byte* lower = b + h * 64;
    const std::byte* upper = b + 128 + h * 32;
    const std::byte* scales = b + 192 + h * 8;
    for (int j = 0; j < 4; ++j) {
      for (int i = 0; i < 32; ++i) {
        const std::byte pair = lower[j % 2 * 32 + i];
        const int value = (j < 2 ? low(pair) : high(pair)) | (u8(upper[i]) >> 2 * j & 3) << 4;
        const int scale = i8(scales[j * 2 + i / 16]);
        y[h * 128 + j * 32 + i] = d * static_cast<float>(scale) * static_cast<float>(value - 32);
      }
    }
  }
}

void block(DType dtype, const std::byte* b, float* y) {
  switch (dtype) {
    case DType::f32: *y = load<float>(b); break;
    case DType::f16: *y = half(b); break;
    case DType::bf16: *y = f32_from_bf16(load<uint16_t>(b)); break;
    case DType::f64: *y = static_cast<float>(load<double>(b)); break;
    case DType::q8_0: q8_0(b, y); break;
    case DType::q4_0: q4_0(b, y); break;
    case DType::q4_1: q4_1(b, y); break;
    case DType::q5_0: q5_0(b, y); break;
    case DType::q5_1: q5_1(b, y); break;
    case DType::q4_k: q45_k<false>(b, y); break;
    case DType::q5_k: q45_k<true>(b, y); break;
    case DType::q6_k: q6_k(b, y); break;
    case DType::i32:
    case DType::i8:
    case DType::u8:
    case DType::i64: break;
  }
}

}  // namespace

float f32_from_bf16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

float f32_from_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 0) {  // zero and subnormals: fraction · 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 127 - 15;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

uint16_t f16_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const auto signed_bits = [&](uint32_t half_bits) { return static_cast<uint16_t>(sign | half_bits); };
  if (magnitude > 0x7f800000) return signed_bits(0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000) return signed_bits(0x7c00);  // 65520 is half way to 2^16
  if (magnitude < 0x38800000) {
    // below 2^-14: adding 0.5 leaves exactly round(value / 2^-24) in the last bits of the sum
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return signed_bits(std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f));
  }
  const uint32_t rebased = magnitude - (uint32_t{127 - 15} << 23);
  return signed_bits((rebased + 0xfff + (rebased >> 13 & 1)) >> 13);
}

uint16_t bf16_from_f32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value))
    return static_cast<uint16_t>(bits >> 16 | 0x40);  // quiet, or the fraction could round to infinity
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void dequantize_row(DType dtype, std::span<const std::byte> stored, std::span<float> row) {
  const DTypeInfo info = dtype_info(dtype);
  if (!is_weight_dtype(dtype)) {
    throw Error(Code::unsupported_format, "weight", "a float or block-quantised dtype",
                std::string(info.name));
  }
  const auto elements = static_cast<size_t>(info.block_elements),
             bytes = static_cast<size_t>(info.block_bytes);
  if (row.size() % elements != 0 || stored.size() != row.size() / elements * bytes) {
    throw Error(
        Code::internal, "weight",
        "whole blocks of " + std::string(info.name) + " for " + std::to_string(row.size()) + " elements",
        std::to_string(stored.size()) + " bytes");
  }
  for (size_t i = 0; i < row.size() / elements; ++i) block(dtype, &stored[i * bytes], &row[i * elements]);
}

}  // namespace crosscurrent
