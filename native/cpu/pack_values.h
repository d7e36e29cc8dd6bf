// Weights packed from arrays: integers with scales and zero points, or floats that are quantised here.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "../backend.h"
#include "pack.h"

namespace crosscurrent::cpu {

// [experts, n, k] in groups of `group` elements of k; 4 or 8 bits.
struct GroupShape {
  int64_t experts, n, k, group;
  int bits;
};

// Throws invalid_argument where a side is zero, a group does not divide k, or the array has another size.
// `call` begins the error messages, as of the other functions.
void check_groups(const std::string& call, const GroupShape& shape, int64_t elements);

// value = scale (q - zero): 4 bits: q and zero 0 … 15, without zeros 8; 8 bits: q as int8, no zeros. Scales
// and products with zeros that f16 does not hold are kept in f32 with 4 bits; with 8 bits scales are rounded
// to f16.
PackedMatrix pack_groups(const std::string& call, const GroupShape& shape, std::span<const uint8_t> q,
                         std::span<const float> scales, std::span<const uint8_t> zeros, Cancel cancel);

// Round to nearest. Symmetric: scale = max|x| / 7 (127 with 8 bits); else 4 bits and a min a group. Scales
// and mins are f16 numbers.
PackedMatrix quantize_groups(const std::string& call, const GroupShape& shape, std::span<const float> values,
                             bool is_symmetric, Cancel cancel);

}  // namespace crosscurrent::cpu
