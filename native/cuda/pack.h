// Quantised weights as the matmul kernels read them: 4 or 8 bits, packed once at load, the same bytes on
// every host.
//
// W[n, k] is cut into panels of 64 rows and blocks of 64 columns. One region holds, each 256-byte aligned:
//   weights  [panel][block][tile of 16 rows][piece][lane][4 words]: a lane's 16 bytes are the fragments that
//            `mma_bf16` and `wgmma_register` want of it for 4 (int4) or 2 (int8) steps of 16 columns, so a
//            warp loads 512 bytes side by side and never shuffles.
//   scales   [panel][group][64] 16-bit floats, rows in the order of `scale_index`
//   zeros    the same, bytes; absent when every zero is 2^(bits - 1)
// Rows and columns beyond n and k hold weights of value 0. w = (q - zero) * scale.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "../error.h"
#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kPanelRows = 64;
constexpr int kBlockColumns = 64;
constexpr int kTileRows = 16;

enum class ScaleType : uint8_t { f16, bf16 };

// What a packed matrix is; with it alone all its offsets are known.
struct PackedShape {
  int bits = 4;     // 4 or 8
  int64_t n = 0;    // rows as packed; of a gated pair both: 2 ff
  int64_t k = 0;    // a multiple of group
  int group = 128;  // 32, 64 or 128
  bool has_zero = false;
  ScaleType scale_type = ScaleType::f16;
  // Rows of gate and up alternate, 8 by 8: then one lane holds, in one mma tile, both halves of an output.
  bool gated = false;

  // Of a gated matrix a panel is 32 rows of gate and 32 of up.
  int64_t panels() const {
    return gated ? ceil_div<int64_t>(n / 2, kPanelRows / 2) : ceil_div<int64_t>(n, kPanelRows);
  }
  int64_t blocks() const { return ceil_div<int64_t>(k, kBlockColumns); }
  int64_t groups() const { return ceil_div<int64_t>(blocks() * kBlockColumns, group); }
  int64_t block_bytes() const { return int64_t{kPanelRows} * kBlockColumns * bits / 8; }
  int64_t scales_offset() const { return round_up<int64_t>(panels() * blocks() * block_bytes(), 256); }
  int64_t zeros_offset() const { return scales_offset() + round_up<int64_t>(panels() * groups() * 128, 256); }
  int64_t bytes() const {
    return zeros_offset() + (has_zero ? round_up<int64_t>(panels() * groups() * 64, 256) : 0);
  }
};

// Throws `Error` for a shape without a kernel.
inline void check_packed_shape(const PackedShape& s) {
  const auto refuse = [](const char* operand, const char* expected, int64_t got) {
    throw Error(Code::invalid_argument, operand, expected, std::to_string(got));
  };
  if (s.bits != 4 && s.bits != 8) refuse("packed weight: bits", "4 or 8", s.bits);
  if (s.group != 32 && s.group != 64 && s.group != 128)
    refuse("packed weight: group", "32, 64 or 128", s.group);
  if (s.n < 0 || s.n > INT32_MAX - kPanelRows) refuse("packed weight: n", "0 … 2^31 - 65", s.n);
  if (s.k < 0 || s.k > INT32_MAX / 2) refuse("packed weight: k", "0 … 2^30", s.k);
  if (s.k % s.group != 0) refuse("packed weight: k", "a multiple of group", s.k);
  if (s.panels() * s.blocks() > INT32_MAX / 4) {
    refuse("packed weight: n * k", "at most 2^41, blocks are counted in 32 bits", s.n * s.k);
  }
  if (s.gated && s.n % 2 != 0) refuse("packed weight: n", "even, gate and up", s.n);
}

// The row that a panel's row is packed from; of a gated matrix rows of gate come before those of up; -1 is
// padding.
inline int64_t source_row(const PackedShape& s, int64_t panel, int row) {
  if (!s.gated) {
    const int64_t r = panel * kPanelRows + row;
    return r < s.n ? r : -1;
  }
  const int64_t ff = s.n / 2, r = panel * (kPanelRows / 2) + row / 16 * 8 + row % 8;
  return r < ff ? (row % 16 < 8 ? r : ff + r) : -1;
}

// Where a panel's row keeps its scale: what a lane needs (rows l / 4 + 8 i) lies side by side.
constexpr int scale_index(int row) { return row % 8 * 8 + row / 8; }

// Round to nearest even; what is beyond the type becomes infinity.
inline uint16_t to_f16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude >= 0x7F800000)
    return static_cast<uint16_t>(sign | (magnitude > 0x7F800000 ? 0x7E00 : 0x7C00));
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude < 0x38800000) {  // subnormal: in units of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(std::abs(value) * 0x1p24f)));
  }
  const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

inline uint16_t to_bf16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

struct PackSource {
  std::span<const uint8_t> q;                 // [n, k], unsigned: signed values plus 2^(bits - 1)
  std::span<const float> scales;              // [n, k / group]
  std::span<const uint8_t> zeros = {};        // [n, k / group], at most 2^bits; needs `has_zero`
  int64_t group = 0;                          // of the source; 0: the shape's. A whole row may share a scale
  std::span<const int32_t> permutation = {};  // packed column j is column permutation[j] of q (act-order)
};

// Columns sorted by group, for GPTQ's `g_idx`: packed with it, groups are stretches again, and the kernels
// gather x by the same permutation.
inline std::vector<int32_t> act_order_permutation(std::span<const int32_t> group_of_column) {
  std::vector<int32_t> order(group_of_column.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return group_of_column[static_cast<size_t>(a)] < group_of_column[static_cast<size_t>(b)];
  });
  return order;
}

// Writes panels [panel, panel_end): disjoint ranges may be packed by several threads. `packed` is the whole
// region.
inline void pack_panels(const PackedShape& s, const PackSource& source, int64_t panel, int64_t panel_end,
                        std::span<std::byte> packed) {
  const int64_t source_group = source.group > 0 ? source.group : s.group;
  const int64_t source_groups = s.k / source_group;
  const int neutral = 1 << (s.bits - 1);
  std::vector<uint8_t> block(kPanelRows * kBlockColumns);
  const auto at = [&](int row, int column) {
    return static_cast<uint32_t>(block[row * kBlockColumns + column]);
  };
  for (; panel < panel_end; ++panel) {
    for (int64_t g = 0; g < s.groups(); ++g) {
      for (int row = 0; row < kPanelRows; ++row) {
        const int64_t r = source_row(s, panel, row);
        const bool real = r >= 0 && g * s.group < s.k;
        const auto from = static_cast<size_t>(real ? r * source_groups + g * s.group / source_group : 0);
        const float scale = real ? source.scales[from] : 0.0f;
        const uint16_t stored = s.scale_type == ScaleType::f16 ? to_f16_bits(scale) : to_bf16_bits(scale);
        const int64_t to = (panel * s.groups() + g) * kPanelRows + scale_index(row);
        std::memcpy(packed.data() + s.scales_offset() + 2 * to, &stored, 2);
        if (s.has_zero)
          packed[s.zeros_offset() + to] = std::byte{real ? source.zeros[from] : uint8_t(neutral)};
      }
    }
    for (int64_t b = 0; b < s.blocks(); ++b) {
      for (int row = 0; row < kPanelRows; ++row) {
        const int64_t r = source_row(s, panel, row);
        for (int c = 0; c < kBlockColumns; ++c) {
          const int64_t column = b * kBlockColumns + c;
          uint8_t q = static_cast<uint8_t>(neutral);
          if (r >= 0 && column < s.k) {
            const int64_t j =
                source.permutation.empty() ? column : source.permutation[static_cast<size_t>(column)];
            q = source.q[static_cast<size_t>(r * s.k + j)];
          }
          block[row * kBlockColumns + c] = q;
        }
      }
      const int words = s.bits / 4 * 4 * 32 * 4;  // pieces, tiles, lanes, words
      std::byte* out = packed.data() + (panel * s.blocks() + b) * s.block_bytes();
      for (int i = 0; i < words; ++i) {
        const int word = i % 4, lane = i / 4 % 32, piece = i / 128 % (s.bits / 4),
                  tile = i / 128 / (s.bits / 4);
        const int row = tile * kTileRows + lane / 4;
        uint32_t value = 0;
        if (s.bits == 4) {  // step `word`; fields: see `Fragments` of matmul_stream.cuh
          const int column = 16 * word + 2 * (lane % 4);
          for (int e = 0; e < 8; ++e) {
            value |= at(row + e % 2 * 8, column + e / 2 % 2 * 8 + e / 4) << (4 * e);
          }
        } else {
          const int column = 16 * (2 * piece + word / 2) + 2 * (lane % 4) + word % 2 * 8;
          for (int e = 0; e < 4; ++e) value |= at(row + e % 2 * 8, column + e / 2) << (8 * e);
        }
        std::memcpy(out + 4 * i, &value, 4);
      }
    }
  }
}

inline std::vector<std::byte> pack(const PackedShape& s, const PackSource& source) {
  check_packed_shape(s);
  const auto check_size = [](const char* operand, size_t expected, size_t got) {
    if (expected != got) {
      throw Error(Code::invalid_argument, operand, std::to_string(expected) + " elements",
                  std::to_string(got));
    }
  };
  const int64_t group = source.group > 0 ? source.group : s.group;
  if (group % s.group != 0 || (s.k > 0 && s.k % group != 0)) {
    throw Error(Code::invalid_argument, "pack: source group", "a multiple of group that divides k",
                std::to_string(group));
  }
  const auto groups = static_cast<size_t>(s.n * (s.k / group));
  check_size("pack: q", static_cast<size_t>(s.n * s.k), source.q.size());
  check_size("pack: scales", groups, source.scales.size());
  check_size("pack: zeros", s.has_zero ? groups : 0, source.zeros.size());
  if (!source.permutation.empty())
    check_size("pack: permutation", static_cast<size_t>(s.k), source.permutation.size());
  std::vector<std::byte> packed(static_cast<size_t>(s.bytes()));
  pack_panels(s, source, 0, s.panels(), packed);
  return packed;
}

}  // namespace crosscurrent::cuda
