// The CUDA part's packer and tile policies: host code, so no GPU is needed. The unpacking here follows the
// PTX manual's figures of mma fragments and shares nothing with the packer.
#include <cmath>
#include <random>

#include "harness.h"
#include "native/cuda/matmul_tile.h"
#include "native/cuda/pack.h"

namespace crosscurrent::cuda {
namespace {

using test::expect;
using test::expect_equal;
using test::expect_error;
using test::Test;

constexpr uint32_t kSeed = 20261125;

struct Matrix {
  PackedShape shape;
  std::vector<uint8_t> q = {}, zeros = {};
  std::vector<float> scales = {};
  std::vector<int32_t> permutation = {};

  std::vector<std::byte> packed() const {
    return pack(shape, {.q = q, .scales = scales, .zeros = zeros, .permutation = permutation});
  }
};

Matrix random_matrix(const PackedShape& shape, bool permuted = false) {
  std::mt19937 random(kSeed);
  Matrix m{.shape = shape};
  const auto groups = static_cast<size_t>(shape.n * (shape.k / shape.group));
  m.q.resize(static_cast<size_t>(shape.n * shape.k));
  for (uint8_t& v : m.q) v = static_cast<uint8_t>(random() & ((1u << shape.bits) - 1));
  m.scales.resize(groups);
  for (float& v : m.scales) v = static_cast<float>(1 + random() % 1000) / 4096;
  if (shape.has_zero) {
    m.zeros.resize(groups);
    for (uint8_t& v : m.zeros) v = static_cast<uint8_t>(random() % 17);
  }
  if (permuted) {
    std::vector<int32_t> group_of(static_cast<size_t>(shape.k));
    for (size_t i = 0; i < group_of.size(); ++i)
      group_of[i] = static_cast<int32_t>(i * 7 % group_of.size()) / shape.group;
    m.permutation = act_order_permutation(group_of);
  }
  return m;
}

float half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const float magnitude = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                                        : std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// What an mma would be fed for row `row` of a panel and column `column`: lane and register by the manual's
// figure for m16n8k16, A operand. Register 2 h + (row / 8 % 2) … of step column / 16.
int stored_q(const PackedShape& s, const std::vector<std::byte>& packed, int64_t panel, int row,
             int64_t column) {
  const int64_t block = column / 64;
  const int tile = row / 16, in_tile = row % 16, step = static_cast<int>(column % 64) / 16;
  const int in_step = static_cast<int>(column % 16), lane = in_tile % 8 * 4 + in_step % 8 / 2;
  const int reg = in_tile / 8 + 2 * (in_step / 8), odd = in_step % 2;
  const std::byte* base = packed.data() + (panel * s.blocks() + block) * s.block_bytes();
  uint32_t word = 0;
  if (s.bits == 4) {
    std::memcpy(&word, base + tile * 512 + lane * 16 + step * 4, 4);
    return static_cast<int>(word >> (4 * reg + 16 * odd)) & 15;
  }
  // Two words a step, registers 0 and 1, then 2 and 3; bytes 0 and 2 are the first's.
  std::memcpy(&word, base + tile * 1024 + step / 2 * 512 + lane * 16 + step % 2 * 8 + reg / 2 * 4, 4);
  return static_cast<int>(word >> (8 * (reg % 2) + 16 * odd)) & 255;
}

void check_matrix(const Matrix& m) {
  const PackedShape& s = m.shape;
  const std::vector<std::byte> packed = m.packed();
  expect_equal(static_cast<int64_t>(packed.size()), s.bytes(), "bytes");
  const int64_t source_groups = s.k / s.group;
  for (int64_t panel = 0; panel < s.panels(); ++panel) {
    for (int row = 0; row < 64; ++row) {
      // Of a gated pair rows 0 … 7 of a tile are gate's, 8 … 15 up's.
      int64_t r = panel * 64 + row;
      bool inside = r < s.n;
      if (s.gated) {
        const int64_t output = panel * 32 + row / 16 * 8 + row % 8;
        inside = output < s.n / 2;
        r = row % 16 < 8 ? output : s.n / 2 + output;
      }
      for (int64_t c = 0; c < s.blocks() * 64; ++c) {
        const bool real = inside && c < s.k;
        const int64_t from = m.permutation.empty() || c >= s.k ? c : m.permutation[static_cast<size_t>(c)];
        const int expected = real ? m.q[static_cast<size_t>(r * s.k + from)] : 1 << (s.bits - 1);
        expect_equal(stored_q(s, packed, panel, row, c), expected, "q");
      }
      for (int64_t g = 0; g < s.groups(); ++g) {
        const int64_t at = (panel * s.groups() + g) * 64 + row % 8 * 8 + row / 8;
        const bool real = inside && g < source_groups;
        uint16_t bits = 0;
        std::memcpy(&bits, packed.data() + s.scales_offset() + 2 * at, 2);
        const float scale = s.scale_type == ScaleType::f16
                                ? half_value(bits)
                                : std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
        const float expected = real ? m.scales[static_cast<size_t>(r * source_groups + g)] : 0.0f;
        expect(std::abs(scale - expected) <= expected / (s.scale_type == ScaleType::f16 ? 2048 : 256),
               "scale");
        if (s.has_zero) {
          const int zero = static_cast<int>(packed[static_cast<size_t>(s.zeros_offset() + at)]);
          expect_equal(zero, real ? m.zeros[static_cast<size_t>(r * source_groups + g)] : 8, "zero");
        }
      }
    }
  }
}

const Test layouts("cuda pack: every fragment holds its weight, scale and zero", [] {
  for (const int bits : {4, 8}) {
    for (const int group : {32, 64, 128}) {
      for (const bool zero : {false, true}) {
        for (const bool gated : {false, true}) {
          if (bits == 8 && zero) continue;
          const PackedShape shape{.bits = bits,
                                  .n = 70,
                                  .k = 3 * group,
                                  .group = group,
                                  .has_zero = zero,
                                  .scale_type = zero ? ScaleType::bf16 : ScaleType::f16,
                                  .gated = gated};
          check_matrix(random_matrix(shape));
        }
      }
    }
  }
  for (const int64_t n : {1, 63, 64, 65, 128}) check_matrix(random_matrix({.n = n, .k = 128}));
});

const Test act_order("cuda pack: act-order sorts columns by group and keeps their order within", [] {
  const std::vector<int32_t> order = act_order_permutation(std::vector<int32_t>{1, 0, 1, 0, 2, 0});
  expect(order == std::vector<int32_t>{1, 3, 5, 0, 2, 4}, "order");
  check_matrix(random_matrix({.n = 40, .k = 256, .group = 64}, true));
});

const Test row_wide("cuda pack: a group of the whole row is repeated", [] {
  const PackedShape shape{.n = 3, .k = 256, .group = 64};
  Matrix wide = random_matrix({.n = 3, .k = 256, .group = 128});
  wide.scales.resize(3);
  Matrix repeated{.shape = shape, .q = wide.q};
  for (const float scale : wide.scales) repeated.scales.insert(repeated.scales.end(), 4, scale);
  const auto packed = pack(shape, {.q = wide.q, .scales = wide.scales, .group = 256});
  expect(packed == repeated.packed(), "bytes");
});

const Test half_bits("cuda pack: scales round to nearest even", [] {
  const std::pair<float, int> f16[] = {
      {0.0f, 0},          {1.0f, 0x3C00},       {-2.0f, 0xC000},     {65504.0f, 0x7BFF},
      {65520.0f, 0x7C00}, {0x1p-24f, 1},        {0x1p-25f, 0},       {0x1.8p-24f, 2},
      {0x1p-14f, 0x400},  {0x1.002p0f, 0x3C00}, {0x1.006p0f, 0x3C02}};
  for (const auto& [value, bits] : f16)
    expect_equal(int{to_f16_bits(value)}, bits, "f16 of " + std::to_string(value));
  expect_equal(int{to_f16_bits(INFINITY)}, 0x7C00, "infinity");
  expect((to_f16_bits(NAN) & 0x7FFF) > 0x7C00, "NaN");
  expect_equal(int{to_bf16_bits(1.0f)}, 0x3F80, "bf16 of 1");
  expect_equal(int{to_bf16_bits(0x1.01p0f)}, 0x3F80, "bf16, a tie to even");
  expect_equal(int{to_bf16_bits(0x1.03p0f)}, 0x3F82, "bf16, a tie to even");
  expect((to_bf16_bits(NAN) & 0x7FFF) > 0x7F80, "bf16 NaN");
});

const Test refusals("cuda pack: shapes without a kernel are refused", [] {
  const auto refused = [](const PackedShape& shape) {
    expect_error(Code::invalid_argument, [&] { check_packed_shape(shape); });
  };
  refused({.bits = 3, .n = 64, .k = 128});
  refused({.n = 64, .k = 128, .group = 48});
  refused({.n = 64, .k = 96});
  refused({.n = -1, .k = 128});
  refused({.n = int64_t{1} << 31, .k = 128});
  refused({.n = 1 << 30, .k = 1 << 20});
  refused({.n = 65, .k = 128, .gated = true});
  const Matrix m = random_matrix({.n = 2, .k = 128});
  const auto bad_source = [&](const PackSource& source) {
    expect_error(Code::invalid_argument, [&] { pack(m.shape, source); });
  };
  bad_source({.q = std::span(m.q).first(255), .scales = m.scales});
  bad_source({.q = m.q, .scales = std::span(m.scales).first(1)});
  bad_source({.q = m.q, .scales = m.scales, .zeros = m.q});
  bad_source({.q = m.q, .scales = m.scales, .group = 96});
  const std::vector<int32_t> permutation(127);
  bad_source({.q = m.q, .scales = m.scales, .permutation = permutation});
});

const Test stream_policy("cuda tiles: streaming blocks run all at once where registers allow", [] {
  const Arch h100, a100{.compute = 80, .sms = 108, .shared_bytes = 163 << 10, .l2_bytes = 40 << 20};
  for (const Arch& arch : {h100, a100}) {
    for (const int64_t n : {1, 64, 1024, 4096, 5120, 8192, 11008, 14336, 28672, 128256}) {
      for (const int64_t m : {1, 8, 9, 16}) {
        const PackedShape shape{.n = n, .k = 4096};
        const int tiles = stream_tiles(arch, shape, m);
        expect(tiles >= 1 && tiles <= most_stream_tiles(m), "tiles within registers");
        const int64_t blocks = ceil_div<int64_t>(stream_row_tiles(shape), tiles);
        expect(tiles == most_stream_tiles(m) || blocks <= 2 * arch.sms, "one wave");
      }
    }
  }
  expect_equal(stream_tiles(h100, {.n = 4096, .k = 4096}, 1), 1, "4096");
  expect_equal(stream_tiles(h100, {.n = 14336, .k = 4096}, 1), 4, "14336");
  expect_equal(stream_tiles(h100, {.n = 28672, .k = 8192}, 1), 7, "28672");
  expect_equal(stream_tiles(h100, {.n = 28672, .k = 8192}, 16), 4, "28672, 16 rows");
  expect_equal(stream_row_tiles({.n = 28672, .k = 64, .gated = true}), int64_t{1792},
               "tiles of a gated pair");
});

const Test gemm_policy("cuda tiles: wgmma tiles widen with the work", [] {
  const Arch h100;
  const PackedShape wide{.n = 14336, .k = 4096}, narrow{.n = 1024, .k = 4096};
  expect(gemm_shape(h100, wide, 17) == GemmShape::rows_128x64, "few rows");
  expect(gemm_shape(h100, wide, 128) == GemmShape::rows_128x128, "128 rows");
  expect(gemm_shape(h100, wide, 512) == GemmShape::rows_256x128, "512 rows");
  expect(gemm_shape(h100, narrow, 512) == GemmShape::rows_128x128, "narrow W");
  expect(gemm_shape(h100, {.n = 14336, .k = 4096, .gated = true}, 17) == GemmShape::gated_256x128, "gated");
  expect(gemm_is_wide(h100, 4096, 4096) && !gemm_is_wide(h100, 128, 14336), "bf16");
});

}  // namespace
}  // namespace crosscurrent::cuda
