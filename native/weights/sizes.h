// Arithmetic on sizes that come from files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../dtype.h"

namespace crosscurrent {

constexpr std::optional<uint64_t> checked_multiply(uint64_t a, uint64_t b) {
  if (b != 0 && a > UINT64_MAX / b) return std::nullopt;
  return a * b;
}

// Bytes of a tensor whose last axis is a multiple of the block; nothing when elements or bytes leave the
// range of int64.
inline std::optional<uint64_t> tensor_bytes(DType dtype, const std::vector<int64_t>& shape) {
  const DTypeInfo info = dtype_info(dtype);
  uint64_t elements = 1;
  for (const int64_t dim : shape) {
    const auto product = checked_multiply(elements, static_cast<uint64_t>(dim));
    if (!product || *product > INT64_MAX) return std::nullopt;
    elements = *product;
  }
  const auto bytes = checked_multiply(elements / static_cast<uint64_t>(info.block_elements),
                                      static_cast<uint64_t>(info.block_bytes));
  return bytes && *bytes <= INT64_MAX ? bytes : std::nullopt;
}

inline std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

}  // namespace crosscurrent
