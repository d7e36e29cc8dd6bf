#include "quant_blocks.h"

#include <bit>
#include <cstring>

namespace crosscurrent::cpu {
namespace {

uint16_t load_u16(const std::byte* from) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}

uint8_t load_u8(const std::byte* from) { return static_cast<uint8_t>(*from); }

float load_f16(const std::byte* from) { return f16_to_f32(load_u16(from)); }

// Elements 0…15 are the low nibbles of 16 bytes, 16…31 the high ones.
void split_nibbles(const std::byte* packed, int8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = static_cast<int8_t>(load_u8(packed + i) & 15);
    q[i + 16] = static_cast<int8_t>(load_u8(packed + i) >> 4);
  }
}

void add_fifth_bits(const std::byte* bits, int8_t* q) {
  uint32_t high;
  std::memcpy(&high, bits, sizeof high);
  for (int i = 0; i < 32; ++i) q[i] = static_cast<int8_t>(q[i] | ((high >> i & 1) << 4));
}

struct ScaleMin {
  int scale, min;
};

// The 6-bit scale and min of sub-block j of a q4_k or q5_k block.
ScaleMin k_scale(const std::byte* b, int j) {
  const auto at = [b](int i) { return static_cast<int>(load_u8(b + i)); };
  if (j < 4) return {at(j) & 63, at(j + 4) & 63};
  return {(at(j + 4) & 15) | (at(j - 4) >> 6 << 4), (at(j + 4) >> 4) | (at(j) >> 6 << 4)};
}

// q4_k, and with `high` q5_k: 8 sub-blocks of 32.
void split_k45(const std::byte* block, const std::byte* high, const std::byte* low, int8_t* q, float* scale,
               float* min) {
  const float d = load_f16(block), d_min = load_f16(block + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleMin s = k_scale(block + 4, j);
    scale[j] = d * static_cast<float>(s.scale);
    min[j] = -(d_min * static_cast<float>(s.min));
    for (int i = 0; i < 32; ++i) {
      const int byte = load_u8(low + j / 2 * 32 + i);
      int value = j % 2 == 0 ? byte & 15 : byte >> 4;
      if (high != nullptr) value |= (load_u8(high + i) >> j & 1) << 4;
      q[j * 32 + i] = static_cast<int8_t>(value);
    }
  }
}

void split_q6_k(const std::byte* block, int8_t* q, float* scale) {
  const std::byte *low = block, *high = block + 128, *scales = block + 192;
  const float d = load_f16(block + 208);
  for (int i = 0; i < 16; ++i) scale[i] = d * static_cast<float>(static_cast<int8_t>(load_u8(scales + i)));
  for (int half = 0; half < 2; ++half, low += 64, high += 32, q += 128) {
    for (int i = 0; i < 32; ++i) {
      const int h = load_u8(high + i), a = load_u8(low + i), b = load_u8(low + 32 + i);
      q[i] = static_cast<int8_t>(((a & 15) | (h & 3) << 4) - 32);
      q[i + 32] = static_cast<int8_t>(((b & 15) | (h >> 2 & 3) << 4) - 32);
      q[i + 64] = static_cast<int8_t>((a >> 4 | (h >> 4 & 3) << 4) - 32);
      q[i + 96] = static_cast<int8_t>((b >> 4 | (h >> 6 & 3) << 4) - 32);
    }
  }
}

}  // namespace

float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

uint16_t f32_to_f16_exact(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return static_cast<uint16_t>(sign | 0x7c00 | (magnitude >> 13 & 1023));
  if (magnitude >= 0x38800000) return static_cast<uint16_t>(sign | ((magnitude - 0x38000000) >> 13));
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p24f));
}

QuantTraits quant_traits(DType dtype) {
  switch (dtype) {
    case DType::q4_0: return {.group = 32, .is_int4 = true};
    case DType::q4_1: return {.group = 32, .has_min = true, .is_int4 = true};
    case DType::q4_k: return {.group = 32, .has_min = true, .is_int4 = true, .wide_scales = true};
    case DType::q5_0: return {.group = 32};
    case DType::q5_1: return {.group = 32, .has_min = true};
    case DType::q5_k: return {.group = 32, .has_min = true, .wide_scales = true};
    case DType::q6_k: return {.group = 16, .wide_scales = true};
    case DType::q8_0: return {.group = 32};
    default: return {};
  }
}

void split_row(DType dtype, const std::byte* row, int64_t k, int8_t* q, float* scale, float* min) {
  const DTypeInfo info = dtype_info(dtype);
  const int groups = info.block_elements / quant_traits(dtype).group;
  for (int64_t i = 0; i < k; i += info.block_elements, row += info.block_bytes, q += info.block_elements) {
    switch (dtype) {
      case DType::q4_0: split_nibbles(row + 2, q); break;
      case DType::q4_1: split_nibbles(row + 4, q); break;
      case DType::q5_0:
        split_nibbles(row + 6, q);
        add_fifth_bits(row + 2, q);
        for (int j = 0; j < 32; ++j) q[j] = static_cast<int8_t>(q[j] - 16);
        break;
      case DType::q5_1:
        split_nibbles(row + 8, q);
        add_fifth_bits(row + 4, q);
        break;
      case DType::q8_0: std::memcpy(q, row + 2, 32); break;
      case DType::q4_k: split_k45(row, nullptr, row + 16, q, scale, min); break;
      case DType::q5_k: split_k45(row, row + 16, row + 48, q, scale, min); break;
      case DType::q6_k: split_q6_k(row, q, scale); break;
      default: return;
    }
    if (info.block_elements == 32) {
      *scale = load_f16(row);
      if (dtype == DType::q4_1 || dtype == DType::q5_1) *min = load_f16(row + 2);
    }
    scale += groups;
    if (min != nullptr) min += groups;
  }
}

void expand_row(DType dtype, const std::byte* row, int64_t k, float* out) {
  switch (dtype) {
    case DType::f32: std::memcpy(out, row, static_cast<size_t>(k) * 4); return;
    case DType::f16:
      for (int64_t i = 0; i < k; ++i) out[i] = load_f16(row + 2 * i);
      return;
    case DType::bf16:
      for (int64_t i = 0; i < k; ++i)
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(load_u16(row + 2 * i)) << 16);
      return;
    default: break;
  }
  const DTypeInfo info = dtype_info(dtype);
  const QuantTraits traits = quant_traits(dtype);
  const int zero = dtype == DType::q4_0 ? 8 : 0;
  int8_t q[256];
  float scale[16], min[16] = {};
  for (int64_t i = 0; i < k; i += info.block_elements, row += info.block_bytes) {
    split_row(dtype, row, info.block_elements, q, scale, min);
    for (int j = 0; j < info.block_elements; ++j) {
      const int group = j / traits.group;
      out[i + j] = scale[group] * static_cast<float>(q[j] - zero) + min[group];
    }
  }
}

}  // namespace crosscurrent::cpu
