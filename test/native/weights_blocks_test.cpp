// Row dequantisation against hand-made blocks, written-out formulas and goldens; conversions; quantisation.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>

#include "harness.h"
#include "native/weights/dequantize.h"
#include "native/weights/quantize.h"
#include "native/weights/tensor_file.h"
#include "weights_samples.h"

namespace crosscurrent::test {
namespace {

namespace fs = std::filesystem;

std::vector<float> dequantized(DType dtype, const std::string& bytes, size_t elements) {
  std::vector<float> values(elements);
  dequantize_row(dtype, bytes_of(bytes), values);
  return values;
}

// f16 bits of 2, 0.5 and -1
constexpr uint16_t kTwo = 0x4000, kHalf = 0x3800, kMinusOne = 0xbc00;

// 16 bytes: element 0 is 15 and element 16 is 1; all others 8.
std::string nibbles() { return "\x1f" + std::string(15, '\x88'); }

const Test legacy("dequantize: hand-made blocks of 32", [] {
  const auto check = [](DType dtype, const std::string& bytes, float first, float middle, float other) {
    const auto y = dequantized(dtype, bytes, 32);
    const std::string name(dtype_info(dtype).name);
    expect_equal(y[0], first, name + " element 0");
    expect_equal(y[16], middle, name + " element 16");
    for (const int i : {1, 15, 17, 31}) expect_equal(y[static_cast<size_t>(i)], other, name);
  };
  check(DType::q4_0, ByteWriter().number(kTwo).text() + nibbles(), 14, -14, 0);
  check(DType::q4_1, ByteWriter().number(kTwo).number(kMinusOne).text() + nibbles(), 29, 1, 15);
  // fifth bit of elements 16, 1, 15, 17 and 31
  const uint32_t bits = 1u << 16 | 1u << 1 | 1u << 15 | 1u << 17 | 1u << 31;
  check(DType::q5_0, ByteWriter().number(kTwo).number(bits).text() + nibbles(), -2, 2, 16);
  check(DType::q5_1, ByteWriter().number(kHalf).number(kMinusOne).number(bits).text() + nibbles(), 6.5, 7.5,
        11);
  std::string q8(32, '\x03');
  q8[0] = '\x80', q8[16] = '\x7f';
  check(DType::q8_0, ByteWriter().number(kHalf).text() + q8, -64, 63.5, 1.5);
});

// The K formulas of the format, element by element in double, indexing from the element instead of walking
// the block.
double q45_k_element(const std::vector<uint8_t>& b, int i, bool is_q5) {
  const auto half = [&](int at) { return f32_from_f16(static_cast<uint16_t>(b[at] | b[at + 1] << 8)); };
  const uint8_t* s = &b[4];
  const int j = i / 32, r = i % 32;
  int scale = s[j] & 63, min = s[j + 4] & 63;
  if (j >= 4) {
    scale = (s[j + 4] & 15) | ((s[j - 4] >> 6) << 4);
    min = (s[j + 4] >> 4) | ((s[j] >> 6) << 4);
  }
  const uint8_t pair = b[static_cast<size_t>((is_q5 ? 48 : 16) + i / 64 * 32 + r)];
  int q = i / 32 % 2 ? pair >> 4 : pair & 15;
  if (is_q5) q += 16 * ((b[static_cast<size_t>(16 + r)] >> j) & 1);
  return double(half(0)) * scale * q - double(half(2)) * min;
}

double q6_k_element(const std::vector<uint8_t>& b, int i) {
  const int h = i / 128, g = i % 128 / 32, r = i % 32;
  const int ql = b[static_cast<size_t>(64 * h + 32 * (g & 1) + r)];
  const int qh = b[static_cast<size_t>(128 + 32 * h + r)];
  const int q = (g < 2 ? ql % 16 : ql / 16) + 16 * (qh / (1 << 2 * g) % 4) - 32;
  const auto scale = static_cast<int8_t>(b[static_cast<size_t>(192 + i / 16)]);
  return double(f32_from_f16(static_cast<uint16_t>(b[208] | b[209] << 8))) * scale * q;
}

const Test k_quants("dequantize: random K blocks against the formulas in double", [] {
  std::mt19937 random(3);
  for (const DType dtype : {DType::q4_k, DType::q5_k, DType::q6_k}) {
    for (int round = 0; round < 50; ++round) {
      std::vector<uint8_t> block(static_cast<size_t>(dtype_info(dtype).block_bytes));
      for (uint8_t& byte : block) byte = static_cast<uint8_t>(random());
      const size_t high_bytes[] = {dtype == DType::q6_k ? size_t{209} : 1,
                                   dtype == DType::q6_k ? size_t{209} : 3};
      for (const size_t at : high_bytes) block[at] = 0x2c;  // d near 0.07
      std::vector<float> y(256);
      dequantize_row(dtype, std::as_bytes(std::span(block)), y);
      for (int i = 0; i < 256; ++i) {
        const double expected =
            dtype == DType::q6_k ? q6_k_element(block, i) : q45_k_element(block, i, dtype == DType::q5_k);
        if (std::fabs(y[static_cast<size_t>(i)] - expected) > 2e-5) {
          fail(std::string(dtype_info(dtype).name) + " element " + std::to_string(i) + ": expected " +
               std::to_string(expected) + ", got " + std::to_string(y[static_cast<size_t>(i)]));
        }
      }
    }
  }
});

const Test half_numbers("conversions: all 65,536 f16 and bf16 values there and back", [] {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const float f = f32_from_f16(h), b = f32_from_bf16(h);
    const int exponent = static_cast<int>(bits >> 10 & 31), fraction = static_cast<int>(bits & 1023);
    if (std::isnan(f)) {
      expect(exponent == 31 && fraction != 0 && std::isnan(f32_from_f16(f16_from_f32(f))), "f16 NaN");
    } else {
      const double magnitude = exponent == 31  ? HUGE_VAL
                               : exponent == 0 ? std::ldexp(fraction, -24)
                                               : std::ldexp(1024 + fraction, exponent - 25);
      expect_equal(static_cast<double>(f), bits >> 15 ? -magnitude : magnitude, "f16 value");
      expect_equal(f16_from_f32(f), h, "f16 there and back");
    }
    if (std::isnan(b)) {
      expect(std::isnan(f32_from_bf16(bf16_from_f32(b))), "bf16 NaN");
    } else {
      expect_equal(bf16_from_f32(b), h, "bf16 there and back");
    }
  }
});

const Test rounding("conversions: nearest, ties to even", [] {
  std::mt19937 random(4);
  const auto between = [](float value, float a, float b,
                          float chosen) {  // a, b: the neighbours; even ones win ties
    return std::fabs(double(chosen) - value) <=
           std::min(std::fabs(double(a) - value), std::fabs(double(b) - value));
  };
  for (int round = 0; round < 200'000; ++round) {
    const auto bits = static_cast<uint32_t>(random());
    const float value = std::bit_cast<float>(bits);
    if (!std::isfinite(value)) continue;
    const uint16_t b = bf16_from_f32(value);
    if (!std::isinf(f32_from_bf16(b))) {
      expect(between(value, f32_from_bf16(static_cast<uint16_t>(bits >> 16)),
                     f32_from_bf16(static_cast<uint16_t>((bits >> 16) + 1)), f32_from_bf16(b)),
             "bf16 nearest of " + std::to_string(value));
    }
    const float small = std::ldexp(std::copysign(1.0f + std::fabs(std::fmod(value, 1.0f)), value),
                                   static_cast<int>(bits % 44) - 28);
    const uint16_t h = f16_from_f32(small);
    if ((h & 0x7fff) == 0x7c00 || (h & 0x7fff) == 0) continue;
    expect(between(small, f32_from_f16(static_cast<uint16_t>(h - 1)),
                   f32_from_f16(static_cast<uint16_t>(h + 1)), f32_from_f16(h)),
           "f16 nearest of " + std::to_string(small));
  }
  expect_equal(f16_from_f32(1.0f + 0x1p-11f), 0x3c00, "tie to even, down");
  expect_equal(f16_from_f32(1.0f + 3 * 0x1p-11f), 0x3c02, "tie to even, up");
  expect_equal(f16_from_f32(65519.99f), 0x7bff, "largest");
  expect_equal(f16_from_f32(65520.0f), 0x7c00, "infinity");
  expect_equal(f16_from_f32(0x1p-25f), 0, "tie at half the smallest");
  expect_equal(f16_from_f32(-0x1.8p-25f), 0x8001, "smallest");
  expect_equal(bf16_from_f32(1.0f + 0x1p-8f), 0x3f80, "tie to even, down");
  expect_equal(bf16_from_f32(std::numeric_limits<float>::max()), 0x7f80, "infinity");
});

const Test wrong_sizes("dequantize: half a block and integers are refused", [] {
  std::vector<float> y(32);
  expect_error(Code::internal, [&] { dequantize_row(DType::q4_0, std::vector<std::byte>(17), y); });
  expect_error(Code::internal, [&] { dequantize_row(DType::q4_k, std::vector<std::byte>(144), y); });
  expect_error(Code::unsupported_format, [&] { dequantize_row(DType::i32, std::vector<std::byte>(128), y); });
});

const Test quantized("quantize: half a step at most, and what is exact stays", [] {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (const DType dtype : {DType::q8_0, DType::q4_1}) {
    for (int round = 0; round < 100; ++round) {
      const bool is_tiny = round % 3 == 0;  // scales are f16 subnormals
      std::vector<float> x(96), y(96), z(96);
      for (float& v : x) v = normal(random) * (is_tiny ? 1e-3f : 10.0f);
      const DTypeInfo info = dtype_info(dtype);
      std::vector<std::byte> stored(3 * static_cast<size_t>(info.block_bytes)), again(stored.size());
      quantize_row(dtype, x, stored);
      dequantize_row(dtype, stored, y);
      for (size_t block = 0; block < 96; block += 32) {
        const auto [least, most] = std::minmax_element(&x[block], &x[block] + 32);
        const float largest = std::max(std::fabs(*least), std::fabs(*most));
        const float step = dtype == DType::q8_0 ? largest / 127 : (*most - *least) / 15;
        for (size_t i = block; i < block + 32;
             ++i) {  // scale and min are rounded to f16: 2^-11 of the largest
          expect(std::fabs(x[i] - y[i]) <= 0.5f * step + 0x1p-9f * largest + 1e-6f,
                 std::string(info.name) + " within half a step");
        }
      }
      quantize_row(dtype, y, again);
      dequantize_row(dtype, again, z);
      if (dtype == DType::q8_0 && !is_tiny) expect(y == z, "q8_0 of its own values");
    }
    std::vector<float> constant(32, 0.25f), y(32);
    std::vector<std::byte> stored(static_cast<size_t>(dtype_info(dtype).block_bytes));
    quantize_row(dtype, constant, stored);
    dequantize_row(dtype, stored, y);
    expect(std::fabs(y[7] - 0.25f) < 1e-4f, "a constant row");
    constant[3] = std::numeric_limits<float>::quiet_NaN();
    expect_error(Code::invalid_argument, [&] { quantize_row(dtype, constant, stored); });
    constant[3] = 1e30f;
    expect_error(Code::invalid_argument, [&] { quantize_row(dtype, constant, stored); });
  }
});

const Test goldens("dequantize: decoded matrices of the fixtures, bit for bit", [] {
  const fs::path root = shared_folder() / "quant";
  if (!fs::exists(root)) {
    std::printf("skipped: decoded matrices (no ../shared beside the repository)\n");
    return;
  }
  int matrices = 0;
  for (const char* kind : {"f32", "f16", "bf16", "q40", "q41", "q50", "q51", "q80", "q4k", "q5k", "q6k"}) {
    const fs::path folder = root / (std::string("gguf-") + kind);
    const auto model = TensorStore::open((folder / "model.gguf").string());
    const auto golden = TensorStore::open((folder / "golden.safetensors").string());
    for (const TensorEntry& expected : golden->tensors()) {
      if (!expected.name.starts_with("weight.")) continue;
      const TensorEntry& stored = model->at(expected.name.substr(7));
      expect(stored.shape == expected.shape, "shape of " + expected.name);
      std::vector<float> y(static_cast<size_t>(stored.elements())), want(y.size());
      dequantize_row(stored.dtype, model->map(stored), y);
      golden->read(expected, 0, std::as_writable_bytes(std::span(want)));
      expect(y == want, std::string(kind) + " " + expected.name);
      ++matrices;
    }
  }
  expect_equal(matrices, 22, "matrices");
});

}  // namespace
}  // namespace crosscurrent::test
