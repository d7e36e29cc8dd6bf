// A matmul of packed weights with its data on host and device, and its float64 reference.
#pragma once

#include <cmath>

#include "../packed_matmul.h"
#include "harness.h"

namespace crosscurrent::cuda::driver {

struct Problem {
  PackedShape shape;
  int64_t m = 1;
  bool bias = false, act_order = false;
  int64_t source_group = 0;
  RowClass row_class = RowClass::decode;

  int64_t outputs() const { return shape.gated ? shape.n / 2 : shape.n; }
  std::string name() const {
    std::string s = "int" + std::to_string(shape.bits) + " m=" + std::to_string(m) +
                    " n=" + std::to_string(shape.n) + " k=" + std::to_string(shape.k) + " g" +
                    std::to_string(shape.group);
    if (shape.has_zero) s += " zeros";
    if (shape.scale_type == ScaleType::bf16) s += " bf16 scales";
    if (shape.gated) s += " gated";
    if (bias) s += " bias";
    if (act_order) s += " act-order";
    if (source_group > 0) s += " row-wide group";
    return s + (row_class == RowClass::prefill ? " prefill" : "");
  }
};

// A problem with its data on host and device; rows of x and y are longer than k and n.
struct Instance {
  Problem problem;
  std::vector<uint8_t> q, zeros;
  std::vector<float> scales;
  std::vector<int32_t> permutation;
  std::vector<bf16> x, bias;
  int64_t x_stride, y_stride;
  Buffer<std::byte> weight;
  Buffer<bf16> device_x, device_bias, y;
  Buffer<int32_t> device_permutation;

  static Instance make(const Problem& p, Rng& rng) {
    const PackedShape& s = p.shape;
    const int64_t groups = s.k / (p.source_group > 0 ? p.source_group : s.group);
    std::vector<uint8_t> q = rng.bytes(s.n * s.k), zeros;
    const int most = (1 << s.bits) - 1;
    for (uint8_t& v : q) v = static_cast<uint8_t>(v & most);
    std::vector<float> scales = rng.uniforms(s.n * groups, 0.002, 0.02);
    for (float& v : scales) {  // as the format keeps them: the reference must see the same
      if (s.scale_type == ScaleType::bf16) v = __bfloat162float(__float2bfloat16(v));
      if (s.scale_type == ScaleType::f16) v = __half2float(__float2half(v));
    }
    if (s.has_zero) {
      zeros.resize(static_cast<size_t>(s.n * groups));
      for (uint8_t& v : zeros) v = static_cast<uint8_t>(rng.below((1 << s.bits) + 1));
    }
    std::vector<int32_t> permutation;
    if (p.act_order) {
      std::vector<int32_t> group_of(static_cast<size_t>(s.k));
      for (int64_t i = 0; i < s.k; ++i) group_of[static_cast<size_t>(i)] = static_cast<int32_t>(i / s.group);
      for (int64_t i = s.k - 1; i > 0; --i) std::swap(group_of[i], group_of[rng.below(i + 1)]);
      permutation = act_order_permutation(group_of);
    }
    const int64_t x_stride = round_up<int64_t>(s.k, 8) + 8, y_stride = round_up<int64_t>(p.outputs(), 8) + 8;
    std::vector<bf16> x = rng.normals_bf16(p.m * x_stride), bias = rng.normals_bf16(p.bias ? s.n : 0);
    const auto packed = pack(
        s, {.q = q, .scales = scales, .zeros = zeros, .group = p.source_group, .permutation = permutation});
    return {p,
            q,
            zeros,
            scales,
            permutation,
            x,
            bias,
            x_stride,
            y_stride,
            Buffer<std::byte>(packed),
            Buffer<bf16>(x),
            Buffer<bf16>(bias),
            Buffer<bf16>(p.m * y_stride),
            Buffer<int32_t>(permutation)};
  }

  PackedMatmulArgs args() const {
    return {.shape = problem.shape,
            .weight = weight.data(),
            .x = device_x.data(),
            .bias = problem.bias ? device_bias.data() : nullptr,
            .permutation = problem.act_order ? device_permutation.data() : nullptr,
            .y = y.data(),
            .m = problem.m,
            .x_stride = x_stride,
            .y_stride = y_stride,
            .row_class = problem.row_class};
  }

  double weight_at(int64_t row, int64_t column) const {
    const PackedShape& s = problem.shape;
    const int64_t group = problem.source_group > 0 ? problem.source_group : s.group;
    const auto g = static_cast<size_t>(row * (s.k / group) + column / group);
    const int64_t j = permutation.empty() ? column : permutation[static_cast<size_t>(column)];
    const int zero = zeros.empty() ? 1 << (s.bits - 1) : zeros[g];
    return (q[static_cast<size_t>(row * s.k + j)] - zero) * static_cast<double>(scales[g]);
  }

  // In f64, from the formula.
  std::vector<double> reference() const {
    const PackedShape& s = problem.shape;
    std::vector<double> w(static_cast<size_t>(s.n * s.k)), all(static_cast<size_t>(problem.m * s.n));
    for (int64_t r = 0; r < s.n; ++r) {
      for (int64_t c = 0; c < s.k; ++c) w[static_cast<size_t>(r * s.k + c)] = weight_at(r, c);
    }
    std::vector<double> row(static_cast<size_t>(s.k));
    for (int64_t t = 0; t < problem.m; ++t) {
      for (int64_t c = 0; c < s.k; ++c) {
        const int64_t j = permutation.empty() ? c : permutation[static_cast<size_t>(c)];
        row[static_cast<size_t>(c)] = __bfloat162float(x[static_cast<size_t>(t * x_stride + j)]);
      }
      for (int64_t r = 0; r < s.n; ++r) {
        double sum = problem.bias ? __bfloat162float(bias[static_cast<size_t>(r)]) : 0.0;
        for (int64_t c = 0; c < s.k; ++c)
          sum += row[static_cast<size_t>(c)] * w[static_cast<size_t>(r * s.k + c)];
        all[static_cast<size_t>(t * s.n + r)] = sum;
      }
    }
    if (!s.gated) return all;
    const int64_t ff = s.n / 2;
    std::vector<double> gated(static_cast<size_t>(problem.m * ff));
    for (int64_t t = 0; t < problem.m; ++t) {
      for (int64_t r = 0; r < ff; ++r) {
        const double gate = all[static_cast<size_t>(t * s.n + r)],
                     up = all[static_cast<size_t>(t * s.n + ff + r)];
        gated[static_cast<size_t>(t * ff + r)] = gate / (1 + std::exp(-gate)) * up;
      }
    }
    return gated;
  }

  // y without the gaps between rows; the gaps must still be poisoned.
  std::vector<bf16> result(Report& report) const {
    const std::vector<bf16> padded = y.download();
    std::vector<bf16> dense;
    bool untouched = true;
    for (int64_t t = 0; t < problem.m; ++t) {
      const auto row = padded.begin() + t * y_stride;
      dense.insert(dense.end(), row, row + problem.outputs());
      for (int64_t c = problem.outputs(); c < y_stride; ++c) {
        untouched = untouched && reinterpret_cast<const uint16_t&>(row[c]) == 0xFFFF;
      }
    }
    report.expect(untouched && y.intact(), problem.name() + ": writes beyond y");
    return dense;
  }
};

}  // namespace crosscurrent::cuda::driver
