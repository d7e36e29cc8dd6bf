// Number codes of the GGUF format.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "../dtype.h"
#include "gguf.h"

namespace crosscurrent {

// Unaligned little-endian load; every platform we build for is little-endian.
static_assert(std::endian::native == std::endian::little);
template <class T>
T load_le(const char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// Bytes of a scalar; for strings and arrays the fewest they can take (their length fields).
constexpr uint64_t gguf_min_bytes(GgufType type) {
  switch (type) {
    case GgufType::u8:
    case GgufType::i8:
    case GgufType::boolean: return 1;
    case GgufType::u16:
    case GgufType::i16: return 2;
    case GgufType::u32:
    case GgufType::i32:
    case GgufType::f32: return 4;
    case GgufType::u64:
    case GgufType::i64:
    case GgufType::f64:
    case GgufType::string: return 8;
    case GgufType::array: return 12;
  }
  return 1;
}

// Nothing for a type that we cannot read.
std::optional<DType> ggml_dtype(uint32_t type);

// "Q4_K (type 12)", or the bare number of a type that is not known.
std::string ggml_type_name(uint32_t type);

}  // namespace crosscurrent
