// Operands of kernel tests: seeded numbers, rows inside wider rows, and sentinels that show a write out of
// bounds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "harness.h"
#include "native/cpu/context.h"
#include "native/cpu/isa.h"
#include "native/tensor.h"

namespace crosscurrent::test {

// In [-1, 1), by SplitMix64: the same on every machine.
class Numbers {
 public:
  explicit Numbers(uint64_t seed) : state_(seed) {}
  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
  }
  float next() { return static_cast<float>(static_cast<double>(bits() >> 11) * 0x1p-52 - 1.0); }
  int32_t below(int32_t end) { return static_cast<int32_t>(bits() % static_cast<uint64_t>(end)); }

 private:
  uint64_t state_;
};

inline constexpr float kSentinel = -7.0e37f;

// [rows, columns] in the middle of rows of `columns + before + after`; everything else holds the sentinel.
class Rows {
 public:
  Rows(int64_t rows, int64_t columns, int64_t before = 3, int64_t after = 5)
      : rows_(rows), columns_(columns), before_(before), stride_(columns + before + after) {
    values_.assign(static_cast<size_t>((rows + 1) * stride_), kSentinel);  // and a row behind the last
  }
  Rows& fill(uint64_t seed, float scale = 1) {
    Numbers numbers(seed);
    for (int64_t r = 0; r < rows_; ++r)
      for (int64_t c = 0; c < columns_; ++c) at(r, c) = numbers.next() * scale;
    return *this;
  }
  float& at(int64_t row, int64_t column) {
    return values_[static_cast<size_t>(row * stride_ + before_ + column)];
  }
  float at(int64_t row, int64_t column) const {
    return values_[static_cast<size_t>(row * stride_ + before_ + column)];
  }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  Tensor tensor() { return slice(0, columns_); }
  Tensor slice(int64_t column, int64_t columns) {
    Tensor tensor;
    tensor.data = reinterpret_cast<std::byte*>(&at(0, column));
    tensor.rank = 2;
    tensor.dims[0] = rows_;
    tensor.dims[1] = columns;
    tensor.row_stride = stride_;
    return tensor;
  }
  // One row as a vector operand.
  Tensor vector(int64_t row = 0) {
    Tensor tensor = tensor_of(&at(row, 0), columns_);
    return tensor;
  }
  static Tensor tensor_of(float* data, int64_t count) {
    Tensor tensor;
    tensor.data = reinterpret_cast<std::byte*>(data);
    tensor.rank = 1;
    tensor.dims[0] = count;
    tensor.row_stride = 1;
    return tensor;
  }

  void check_sentinels(const std::string& what) const {
    for (size_t i = 0; i < values_.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / stride_,
                 column = static_cast<int64_t>(i) % stride_ - before_;
      const bool inside = row < rows_ && column >= 0 && column < columns_;
      if (!inside && values_[i] != kSentinel)
        fail(what + ": written outside, row " + std::to_string(row) + ", column " + std::to_string(column));
    }
  }

 private:
  int64_t rows_, columns_, before_, stride_;
  std::vector<float> values_;
};

inline Tensor tensor_of(std::vector<int32_t>& values) {
  Tensor tensor;
  tensor.data = reinterpret_cast<std::byte*>(values.data());
  tensor.dtype = DType::i32;
  tensor.rank = 1;
  tensor.dims[0] = static_cast<int64_t>(values.size());
  tensor.row_stride = 1;
  return tensor;
}

// |got - expected| <= tolerance * (1 + |expected|)
inline void expect_near(double got, double expected, double tolerance, const std::string& what) {
  if (std::abs(got - expected) <= tolerance * (1 + std::abs(expected))) return;
  fail(what + ": expected " + std::to_string(expected) + ", got " + std::to_string(got));
}

inline void expect_same_bits(const float* got, const float* expected, int64_t count,
                             const std::string& what) {
  for (int64_t i = 0; i < count; ++i)
    if (std::memcmp(got + i, expected + i, sizeof(float)) != 0)
      fail(what + ": element " + std::to_string(i) + " has other bits: " + std::to_string(got[i]) +
           " instead of " + std::to_string(expected[i]));
}

// body(threads) once for each instruction-set level of this machine, with its name in failures' scope.
inline void at_every_level(const std::function<void(const std::string& level)>& body) {
  for (const cpu::Isa isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    body(std::string(cpu::isa_name(isa)));
  }
  cpu::set_isa(std::nullopt);
}

}  // namespace crosscurrent::test
