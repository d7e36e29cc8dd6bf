#include "native/cpu/matmul.h"

#include <algorithm>
#include <limits>

#include "harness.h"
#include "native/cpu/isa.h"
#include "native/cpu/pool.h"
#include "weight_reference.h"

namespace crosscurrent::cpu {
namespace {

using test::expect;
using test::expect_error;
using test::Test;

// Of the sum over k of |x| (|scale q| + |min|): f32 rounding of products and sums.
constexpr double kRounding = 2e-6;
// Of |x| |w| (2-norms): activations rounded to int8 per 32 values.
constexpr double kInt8Tolerance = 5e-3;

constexpr float kSentinel = 12345.678f;
constexpr uint64_t kSeed = 20261125;

constexpr DType kFloats[] = {DType::f32, DType::f16, DType::bf16};
constexpr DType kBlocks[] = {DType::q8_0, DType::q4_0, DType::q4_1, DType::q5_0,
                             DType::q5_1, DType::q4_k, DType::q5_k, DType::q6_k};
constexpr int64_t kRows[] = {1, 2, 3, 5, 8, 17, 64};

struct Case {
  DType dtype;
  int64_t n, k;
  bool keep_stored = false;

  std::string name() const {
    return std::string(dtype_info(dtype).name) + (keep_stored ? " stored" : "") + " n=" + std::to_string(n) +
           " k=" + std::to_string(k);
  }
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const DType dtype : kFloats) {
    for (const int64_t n : {1, 3, 16, 37})
      for (const int64_t k : {1, 5, 8, 31, 100}) cases.push_back({dtype, n, k});
  }
  for (const DType dtype : kBlocks) {
    const int block = dtype_info(dtype).block_elements;
    for (const int64_t n : {1, 7, 16, 33, 50}) {
      for (const int64_t blocks : {1, 2, 5}) {
        cases.push_back({dtype, n, blocks * block});
        cases.push_back({dtype, n, blocks * block, true});
      }
    }
  }
  return cases;
}

std::vector<float> random_floats(test::Random& random, int64_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// y with one sentinel column after each row, checked and removed.
std::vector<float> run(const PackedMatrix& w, const float* x, int64_t m, Activations activations,
                       int threads = 1, const float* bias = nullptr, int64_t expert = 0) {
  const int64_t n = w.plan.n, stride = n + 1;
  std::vector<float> y(static_cast<size_t>(m * stride), kSentinel);
  std::vector<std::byte> scratch(matmul_scratch_bytes(w.plan, m, activations));
  matmul({.weight = &w,
          .expert = expert,
          .x = x,
          .x_stride = w.plan.k,
          .m = m,
          .y = y.data(),
          .y_stride = stride,
          .bias = bias,
          .activations = activations,
          .scratch = scratch,
          .threads = threads});
  std::vector<float> out;
  for (int64_t r = 0; r < m; ++r) {
    expect(y[static_cast<size_t>(r * stride + n)] == kSentinel, "sentinel after a row");
    out.insert(out.end(), y.begin() + r * stride, y.begin() + r * stride + n);
  }
  return out;
}

bool same_bits(const float* a, const float* b, size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

void check_values(const Case& c, const std::vector<std::byte>& file, const std::vector<float>& x, int64_t m,
                  const std::vector<float>& bias, const std::vector<float>& y, Activations activations) {
  const size_t row_bytes = file.size() / static_cast<size_t>(c.n);
  for (int64_t j = 0; j < c.n; ++j) {
    const std::byte* row = file.data() + static_cast<size_t>(j) * row_bytes;
    std::vector<test::Value> w;
    for (int64_t i = 0; i < c.k; ++i) w.push_back(test::weight_value(c.dtype, row, i));
    for (int64_t r = 0; r < m; ++r) {
      double sum = bias[static_cast<size_t>(j)], terms = std::abs(sum), xx = 0, ww = 0;
      for (int64_t i = 0; i < c.k; ++i) {
        const double a = x[static_cast<size_t>(r * c.k + i)];
        const test::Value& v = w[static_cast<size_t>(i)];
        sum += a * v.sum();
        terms += std::abs(a) * (std::abs(v.scaled) + std::abs(v.offset));
        xx += a * a;
        ww += v.sum() * v.sum();
      }
      double tolerance = kRounding * terms;
      if (activations == Activations::fast) tolerance += kInt8Tolerance * std::sqrt(xx * ww);
      const double got = y[static_cast<size_t>(r * c.n + j)];
      if (!(std::abs(got - sum) <= tolerance)) {
        test::fail(c.name() + " m=" + std::to_string(m) + " y[" + std::to_string(r) + ", " +
                   std::to_string(j) + "]: expected " + std::to_string(sum) + ", got " + std::to_string(got) +
                   ", tolerance " + std::to_string(tolerance));
      }
    }
  }
}

template <class Body>
void at_each_level(Body body) {
  for (const Isa isa : available_isas()) {
    set_isa(isa);
    body();
  }
  set_isa(std::nullopt);
}

void check_case(const Case& c, Activations activations) {
  test::Random random(kSeed);
  const auto file = test::random_weights(random, c.dtype, c.n, c.k);
  const auto x = random_floats(random, 64 * c.k), bias = random_floats(random, c.n);
  const WeightView view{c.dtype, c.n, c.k, file.data()};
  const PackedMatrix w = pack({&view, 1}, {.keep_stored = c.keep_stored});
  const auto n = static_cast<size_t>(c.n);
  std::vector<float> other_level;
  at_each_level([&] {
    const auto all = run(w, x.data(), 64, activations, 1, bias.data());
    check_values(c, file, x, 64, bias, all, activations);
    for (const int64_t m : kRows) {
      const int64_t first = 64 - m;
      const auto some = run(w, x.data() + first * c.k, m, activations, 2, bias.data());
      expect(same_bits(some.data(), all.data() + static_cast<size_t>(first) * n, some.size()),
             c.name() + ": rows change with m = " + std::to_string(m));
    }
  });
}

const Test exact("matmul: exact activations against f64; rows do not depend on m or threads", [] {
  for (const Case& c : all_cases()) check_case(c, Activations::exact);
});

const Test fast("matmul: int8 activations against f64; rows do not depend on m or threads", [] {
  for (const Case& c : all_cases()) check_case(c, Activations::fast);
});

// Rounds x as the fast mode does: what remains after it is f32 rounding alone.
std::vector<float> rounded_to_int8(std::vector<float> x) {
  for (size_t g = 0; g < x.size(); g += 32) {
    float largest = 0;
    for (size_t i = g; i < g + 32; ++i) largest = std::max(largest, std::abs(x[i]));
    const float scale = largest / 127.0f;
    for (size_t i = g; i < g + 32; ++i) x[i] = scale * std::nearbyint(x[i] * (127.0f / largest));
  }
  return x;
}

const Test integers("matmul: the integer products are exact", [] {
  for (const DType dtype : kBlocks) {
    for (const bool keep_stored : {false, true}) {
      if (keep_stored && dtype != DType::q8_0) continue;  // computed as exact
      const Case c{dtype, 19, 512, keep_stored};
      test::Random random(kSeed + 1);
      const auto file = test::random_weights(random, dtype, c.n, c.k);
      auto x = random_floats(random, 5 * c.k);
      for (int64_t i = 0; i < c.k; ++i)
        x[static_cast<size_t>(c.k + i)] = i % 2 == 0 ? -3.0f : 3.0f;  // saturates every q
      for (int64_t i = 0; i < c.k; ++i) x[static_cast<size_t>(2 * c.k + i)] = -1.0f;
      const WeightView view{dtype, c.n, c.k, file.data()};
      const PackedMatrix w = pack({&view, 1}, {.keep_stored = keep_stored});
      const auto rounded = rounded_to_int8(x);
      const std::vector<float> no_bias(static_cast<size_t>(c.n));
      at_each_level([&] {
        check_values(c, file, rounded, 5, no_bias, run(w, x.data(), 5, Activations::fast),
                     Activations::exact);
      });
    }
  }
});

const Test levels("matmul: levels agree within rounding", [] {
  if (detected_isa() == Isa::v2) return;
  for (const Case& c :
       {Case{DType::q4_1, 50, 576}, Case{DType::q6_k, 50, 512}, Case{DType::q8_0, 50, 576, true}}) {
    for (const Activations activations : {Activations::exact, Activations::fast}) {
      test::Random random(kSeed + 2);
      const auto file = test::random_weights(random, c.dtype, c.n, c.k);
      const auto x = random_floats(random, 7 * c.k);
      const WeightView view{c.dtype, c.n, c.k, file.data()};
      const PackedMatrix w = pack({&view, 1}, {.keep_stored = c.keep_stored});
      set_isa(Isa::v2);
      const auto slow = run(w, x.data(), 7, activations);
      set_isa(std::nullopt);
      const auto quick = run(w, x.data(), 7, activations);
      double largest = 0, difference = 0;
      for (size_t i = 0; i < slow.size(); ++i) {
        largest = std::max(largest, static_cast<double>(std::abs(slow[i])));
        difference = std::max(difference, static_cast<double>(std::abs(slow[i] - quick[i])));
      }
      expect(difference <= 1e-5 * largest, c.name() + ": levels differ by " + std::to_string(difference));
    }
  }
});

// Of 21 rows: what a row alone gives has the same bits anyway.
void check_wider_levels(const Case& c, Activations activations) {
  test::Random random(kSeed + 4);
  const auto file = test::random_weights(random, c.dtype, c.n, c.k);
  const auto x = random_floats(random, 21 * c.k);
  const WeightView view{c.dtype, c.n, c.k, file.data()};
  const PackedMatrix w = pack({&view, 1}, {.keep_stored = c.keep_stored});
  set_isa(Isa::avx2);
  const auto expected = run(w, x.data(), 21, activations);
  at_each_level([&] {
    if (active_isa() == Isa::v2) return;
    const auto got = run(w, x.data(), 21, activations);
    expect(same_bits(got.data(), expected.data(), got.size()),
           c.name() + ": other bits at " + std::string(isa_name(active_isa())));
  });
}

const Test wider("matmul: levels beyond AVX2 give its bits in int8 panels and in exact products", [] {
  if (!is_available(Isa::avx2)) return;
  for (const Case& c : all_cases()) {
    if (!c.keep_stored) check_wider_levels(c, Activations::fast);
    check_wider_levels(c, Activations::exact);
  }
  check_wider_levels({DType::f32, 37, 1500}, Activations::exact);
  check_wider_levels({DType::bf16, 37, 2100}, Activations::exact);
});

const Test large("matmul: many chunks and row blocks give the bits of one row alone", [] {
  for (const Case& c :
       {Case{DType::q4_1, 700, 576}, Case{DType::q6_k, 700, 512}, Case{DType::q8_0, 700, 576, true},
        Case{DType::bf16, 700, 300}, Case{DType::f32, 70, 2050}}) {
    test::Random random(kSeed + 3);
    const auto file = test::random_weights(random, c.dtype, c.n, c.k);
    const int64_t m = 300;
    const auto x = random_floats(random, m * c.k);
    const WeightView view{c.dtype, c.n, c.k, file.data()};
    const PackedMatrix w = pack({&view, 1}, {.keep_stored = c.keep_stored});
    for (const Activations activations : {Activations::exact, Activations::fast}) {
      const Pool::StepScope step;
      const auto one = run(w, x.data(), m, activations, 1);
      const auto two = run(w, x.data(), m, activations, 2);
      expect(same_bits(one.data(), two.data(), one.size()), c.name() + ": one and two threads differ");
      for (const int64_t r : {int64_t{0}, int64_t{131}, int64_t{255}, int64_t{256}, m - 1}) {
        const auto alone = run(w, x.data() + r * c.k, 1, activations, 2);
        expect(same_bits(alone.data(), one.data() + r * c.n, alone.size()),
               c.name() + ": a row alone differs");
      }
    }
  }
});

const Test stacked("matmul: stacked parts of several formats are their columns side by side", [] {
  test::Random random(kSeed + 4);
  constexpr int64_t k = 256;
  struct Part {
    DType dtype;
    int64_t n;
  };
  std::vector<std::vector<std::byte>> files;
  std::vector<WeightView> views;
  for (const Part& p :
       {Part{DType::q4_k, 21}, Part{DType::q6_k, 5}, Part{DType::f16, 3}, Part{DType::q5_1, 16}}) {
    files.push_back(test::random_weights(random, p.dtype, p.n, k));
    views.push_back({p.dtype, p.n, k, files.back().data()});
  }
  const auto x = random_floats(random, 4 * k);
  for (const Activations activations : {Activations::exact, Activations::fast}) {
    const auto all = run(pack(views), x.data(), 4, activations, 2);
    int64_t n0 = 0;
    for (const WeightView& view : views) {
      const auto part = run(pack({&view, 1}), x.data(), 4, activations);
      for (int64_t r = 0; r < 4; ++r)
        expect(same_bits(&all[static_cast<size_t>(r * 45 + n0)], &part[static_cast<size_t>(r * view.n)],
                         static_cast<size_t>(view.n)),
               "a stacked part");
      n0 += view.n;
    }
  }
});

const Test experts("matmul: experts packed row range by row range", [] {
  constexpr int64_t n = 37, k = 256;
  for (const DType dtype : {DType::q4_1, DType::q6_k, DType::f16}) {
    test::Random random(kSeed + 5);
    const PartShape shape{dtype, n};
    PackedMatrix stack = allocate_packed(plan_pack({&shape, 1}, k, {.experts = 3}));
    const auto x = random_floats(random, 3 * k);
    for (int64_t e = 0; e < 3; ++e) {
      const auto file = test::random_weights(random, dtype, n, k);
      const size_t row_bytes = file.size() / n;
      for (int64_t row = 0; row < n; row += 5)
        pack_rows(stack, e, 0, row, std::min<int64_t>(5, n - row),
                  file.data() + static_cast<size_t>(row) * row_bytes);
      const WeightView view{dtype, n, k, file.data()};
      const auto alone = run(pack({&view, 1}), x.data(), 3, Activations::fast);
      const auto got = run(stack, x.data(), 3, Activations::fast, 1, nullptr, e);
      expect(same_bits(alone.data(), got.data(), got.size()), "an expert of a stack");
    }
  }
});

const Test gather("gather_rows: exactly the values of the file", [] {
  for (const Case& c : all_cases()) {
    test::Random random(kSeed + 6);
    const auto file = test::random_weights(random, c.dtype, c.n, c.k);
    const WeightView view{c.dtype, c.n, c.k, file.data()};
    const PackedMatrix w = pack({&view, 1}, {.keep_stored = c.keep_stored});
    const int32_t ids[] = {static_cast<int32_t>(c.n - 1), 0};
    std::vector<float> out(static_cast<size_t>(2 * c.k));
    gather_rows(w, 0, ids, out.data(), c.k);
    for (size_t i = 0; i < out.size(); ++i) {
      const int64_t row = ids[static_cast<int64_t>(i) / c.k];
      const std::byte* bytes =
          file.data() + static_cast<size_t>(row) * (file.size() / static_cast<size_t>(c.n));
      const test::Value value = test::weight_value(c.dtype, bytes, static_cast<int64_t>(i) % c.k);
      const auto expected = static_cast<float>(value.scaled) + static_cast<float>(value.offset);
      expect(out[i] == expected, c.name() + ": a gathered value");
    }
  }
});

const Test not_finite("matmul: NaN and infinity stay in their row, tiny rows are zero", [] {
  for (const DType dtype : {DType::f32, DType::q8_0, DType::q4_1, DType::q6_k}) {
    constexpr int64_t n = 20, k = 256;
    test::Random random(kSeed + 7);
    const auto file = test::random_weights(random, dtype, n, k);
    const WeightView view{dtype, n, k, file.data()};
    const PackedMatrix w = pack({&view, 1});
    auto x = random_floats(random, 4 * k);
    x[3] = std::numeric_limits<float>::quiet_NaN();
    x[k + 40] = std::numeric_limits<float>::infinity();
    std::fill_n(x.begin() + 2 * k, k, 1e-40f);
    for (const Activations activations : {Activations::exact, Activations::fast}) {
      at_each_level([&] {
        const auto y = run(w, x.data(), 4, activations);
        for (int64_t j = 0; j < n; ++j) {
          const auto at = [&](int64_t r) { return y[static_cast<size_t>(r * n + j)]; };
          expect(std::isnan(at(0)) && !std::isfinite(at(1)), "a row that is not finite");
          expect(std::abs(at(2)) < 1e-30f && std::isfinite(at(3)), "its neighbours");
        }
      });
    }
  }
});

const Test bad("plan_pack: refuses what cannot be packed", [] {
  const auto plan = [](DType dtype, int64_t n, int64_t k, int64_t experts = 1) {
    const PartShape shape{dtype, n};
    return plan_pack({&shape, 1}, k, {.experts = experts});
  };
  expect_error(Code::unsupported_format, [&] { plan(DType::i32, 4, 4); });
  expect_error(Code::unsupported_format, [&] { plan(static_cast<DType>(99), 4, 4); });
  expect_error(Code::invalid_argument, [&] { plan(DType::q4_0, 4, 33); });
  expect_error(Code::invalid_argument, [&] { plan(DType::q4_k, 4, 32); });
  expect_error(Code::invalid_argument, [&] { plan(DType::f32, 0, 4); });
  expect_error(Code::invalid_argument, [&] { plan(DType::f32, 4, -1); });
  expect_error(Code::invalid_argument, [&] { plan(DType::f32, 4, 4, 0); });
  expect_error(Code::out_of_memory, [&] { plan(DType::f32, 1ll << 31, 1ll << 31, 1ll << 31); });
  expect_error(Code::invalid_argument, [&] { plan_pack({}, 4); });
});

}  // namespace
}  // namespace crosscurrent::cpu
