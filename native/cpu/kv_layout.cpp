#include "kv_layout.h"

#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "../error.h"

namespace crosscurrent::cpu {
namespace {

constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i8};

uint32_t bits_of(float value) { return std::bit_cast<uint32_t>(value); }
float from_bits(uint32_t bits) { return std::bit_cast<float>(bits); }

// Elements of a cache: how one is rounded and read. All to the nearest, ties to even; written without
// branches, so that loops over rows become vector code.
struct F32 {
  using Element = float;
  static float round(float x, float) { return x; }
  static float read(float x, float) { return x; }
};

struct F16 {
  using Element = uint16_t;
  static uint16_t round(float x, float) {
    const uint32_t sign = bits_of(x) >> 16 & 0x8000, size = bits_of(x) & 0x7fffffff;
    const uint32_t normal = (size - (112u << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    const uint32_t small = bits_of(from_bits(size) + 0.5f) - bits_of(0.5f);  // multiples of 2^-24
    const uint32_t special = size > 0x7f800000 ? 0x7e00u : 0x7c00u;
    uint32_t half = size < (113u << 23) ? small : normal;
    half = half > 0x7bff ? 0x7bff : half;
    half = size >= 0x7f800000 ? special : half;
    return static_cast<uint16_t>(half | sign);
  }
  static float read(uint16_t half, float) {
    const uint32_t sign = (half & 0x8000u) << 16, size = half & 0x7fffu;
    const float value = from_bits(size << 13) * 0x1p112f;
    return from_bits(bits_of(size >= 0x7c00 ? from_bits(0x7f800000 | size << 13) : value) | sign);
  }
};

struct Bf16 {
  using Element = uint16_t;
  static uint16_t round(float x, float) {
    const uint32_t bits = bits_of(x), size = bits & 0x7fffffff;
    uint32_t rounded = (size + 0x7fff + (size >> 16 & 1)) >> 16;
    rounded = rounded > 0x7f7f ? 0x7f7f : rounded;
    rounded = size > 0x7f800000 ? 0x7fc0 : size == 0x7f800000 ? 0x7f80 : rounded;
    return static_cast<uint16_t>(rounded | (bits >> 16 & 0x8000));
  }
  static float read(uint16_t element, float) { return from_bits(uint32_t{element} << 16); }
};

struct Int8 {
  using Element = int8_t;
  static int8_t round(float x, float scale) {
    constexpr float kShifter = 12582912.0f;  // 1.5 * 2^23: the sum has no fraction
    const float steps = scale > 0 ? x / scale : 0.0f;
    const float whole = steps + kShifter - kShifter;
    return static_cast<int8_t>(whole > 127 ? 127 : whole < -127 ? -127 : whole);
  }
  static float read(int8_t q, float scale) { return static_cast<float>(q) * scale; }
};

template <class Body>
void with_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f16: return body(F16{});
    case DType::bf16: return body(Bf16{});
    case DType::i8: return body(Int8{});
    default: return body(F32{});
  }
}

// The largest magnitude is 127 steps; NaN where an element is not finite.
float scale_of(const float* x, int64_t count) {
  float most = 0, zero = 0;
  for (int64_t i = 0; i < count; ++i) {
    most = std::max(most, std::abs(x[i]));
    zero += x[i] * 0.0f;
  }
  return zero == 0 ? most / 127 : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace

std::string_view kv_name(DType dtype) { return dtype == DType::i8 ? "int8" : dtype_info(dtype).name; }

DType required_kv(const char* operand, std::string_view name) {
  std::string names;
  for (const DType dtype : kTypes) {
    if (kv_name(dtype) == name) return dtype;
    names += (names.empty() ? "" : ", ") + std::string(kv_name(dtype));
  }
  throw Error(Code::invalid_argument, operand, names, std::string(name));
}

KvLayout::KvLayout(DType dtype, int64_t head_dim, int64_t page_tokens)
    : dtype_(dtype),
      head_dim_(head_dim),
      page_tokens_(page_tokens),
      width_(std::min<int64_t>(kKeyBlock, page_tokens & -page_tokens)),
      element_bytes_(dtype_info(dtype).block_bytes),
      pair_(dtype == DType::bf16 ? 2 : 1) {
  const auto whole = [](int64_t count, int64_t of) { return (count + of - 1) / of * of; };
  key_row_ = whole(head_dim, pair_);
  values_ = page_tokens * key_row_ * element_bytes_;
  scales_ = whole(values_ + whole(page_tokens, pair_) * head_dim * element_bytes_, sizeof(float));
  head_bytes_ = scales_ + (dtype == DType::i8 ? 2 * page_tokens * static_cast<int64_t>(sizeof(float)) : 0);
}

KvRow KvLayout::row(std::byte* head, int64_t token) const {
  KvRow row{};
  row.key = head + (token / width_ * width_ * key_row_ + token % width_ * pair_) * element_bytes_;
  row.value = head + values_ + (token / pair_ * pair_ * head_dim_ + token % pair_) * element_bytes_;
  if (dtype_ == DType::i8) {
    row.key_scale = reinterpret_cast<float*>(head + scales_) + token;
    row.value_scale = row.key_scale + page_tokens_;
  }
  return row;
}

void KvLayout::put(const KvRow& row, const float* k, const float* v) const {
  const float key_scale = row.key_scale != nullptr ? scale_of(k, head_dim_) : 0.0f;
  const float value_scale = row.value_scale != nullptr ? scale_of(v, head_dim_) : 0.0f;
  if (row.key_scale != nullptr) {
    *row.key_scale = key_scale;
    *row.value_scale = value_scale;
  }
  with_type(dtype_, [&]<class Type>(Type) {
    auto* key = reinterpret_cast<typename Type::Element*>(row.key);
    auto* value = reinterpret_cast<typename Type::Element*>(row.value);
    for (int64_t i = 0; i < head_dim_; ++i) key[key_at(i)] = Type::round(k[i], key_scale);
    for (int64_t i = 0; i < head_dim_; ++i) value[i * pair_] = Type::round(v[i], value_scale);
  });
}

void KvLayout::get(const KvRow& row, float* k, float* v) const {
  const float key_scale = row.key_scale != nullptr ? *row.key_scale : 0.0f;
  const float value_scale = row.value_scale != nullptr ? *row.value_scale : 0.0f;
  with_type(dtype_, [&]<class Type>(Type) {
    const auto* key = reinterpret_cast<const typename Type::Element*>(row.key);
    const auto* value = reinterpret_cast<const typename Type::Element*>(row.value);
    for (int64_t i = 0; i < head_dim_; ++i) k[i] = Type::read(key[key_at(i)], key_scale);
    for (int64_t i = 0; i < head_dim_; ++i) v[i] = Type::read(value[i * pair_], value_scale);
  });
}

void KvLayout::move(const KvLayout& from_layout, const KvRow& from, const KvRow& to) const {
  with_type(dtype_, [&]<class Type>(Type) {
    using Element = typename Type::Element;
    const auto *key = reinterpret_cast<const Element*>(from.key),
               *value = reinterpret_cast<const Element*>(from.value);
    auto *to_key = reinterpret_cast<Element*>(to.key), *to_value = reinterpret_cast<Element*>(to.value);
    for (int64_t i = 0; i < head_dim_; ++i) to_key[key_at(i)] = key[from_layout.key_at(i)];
    for (int64_t i = 0; i < head_dim_; ++i) to_value[i * pair_] = value[i * pair_];
  });
  if (from.key_scale == nullptr) return;
  *to.key_scale = *from.key_scale;
  *to.value_scale = *from.value_scale;
}

}  // namespace crosscurrent::cpu
