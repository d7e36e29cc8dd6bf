// router and moe against f64, and moe's independence of grouping, threads and batch mates.
#include <algorithm>
#include <numeric>

#include "native/cpu/pack.h"
#include "native/ops.gen.h"
#include "op_buffers.h"
#include "step_builder.h"
#include "weight_reference.h"

namespace crosscurrent::cpu {
void router(const Router& a, Context& context);
void moe(const Moe& a, Context& context);
}  // namespace crosscurrent::cpu

namespace crosscurrent::test {
namespace {

template <class Op>
void run(void (*kernel)(const Op&, cpu::Context&), const Op& op, int threads, cpu::Precision precision) {
  const BuiltStep built = build_step(StepClass::prefill, {{.ids = {0}}});
  cpu::Workspace workspace;
  cpu::Context context{built.step, workspace, threads, precision};
  kernel(op, context);
}

Tensor id_rows(std::vector<int32_t>& ids, int64_t columns) {
  Tensor tensor = tensor_of(ids);
  tensor.rank = 2;
  tensor.dims[0] = static_cast<int64_t>(ids.size()) / columns;
  tensor.dims[1] = tensor.row_stride = columns;
  return tensor;
}

struct Routing {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

struct RouterCase {
  Rule rule;
  int64_t experts;
  int32_t top_k;
  bool renormalize = false;
  float scale = 1;

  // Sentinels after each row of weights show a write too many.
  Routing route(Rows& logits, Rows* bias) const {
    const int64_t t = logits.rows();
    Routing result;
    result.ids.assign(static_cast<size_t>(t * top_k), -1);
    Rows weights(t, top_k);
    Router op{};
    op.logits = logits.tensor(), op.ids = id_rows(result.ids, top_k), op.weights = weights.tensor();
    if (bias != nullptr) op.bias = bias->vector();
    op.top_k = top_k, op.rule = rule, op.renormalize = renormalize, op.scale = scale;
    op.t = t, op.experts = experts;
    run(cpu::router, op, 2, cpu::Precision::exact);
    weights.check_sentinels("router weights");
    for (int64_t r = 0; r < t; ++r)
      for (int64_t k = 0; k < top_k; ++k) result.weights.push_back(weights.at(r, k));
    return result;
  }

  void check_row(const Rows& logits, const Rows* bias, const Routing& got, int64_t row) const {
    std::vector<double> score, weight;
    double total = 0;
    for (int64_t e = 0; e < experts; ++e) total += std::exp(static_cast<double>(logits.at(row, e)));
    for (int64_t e = 0; e < experts; ++e) {
      const double logit = logits.at(row, e), sigmoid = 1 / (1 + std::exp(-logit));
      score.push_back(rule == Rule::sigmoid ? sigmoid + (bias != nullptr ? bias->at(0, e) : 0) : logit);
      weight.push_back(rule == Rule::sigmoid        ? sigmoid
                       : rule == Rule::softmax_topk ? std::exp(logit) / total
                                                    : std::exp(logit));
    }
    std::vector<int32_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t i, int32_t j) {
      return score[static_cast<size_t>(i)] > score[static_cast<size_t>(j)];
    });
    double sum = 0;
    for (int32_t k = 0; k < top_k; ++k) sum += weight[static_cast<size_t>(order[static_cast<size_t>(k)])];
    for (int32_t k = 0; k < top_k; ++k) {
      const auto at = static_cast<size_t>(row * top_k + k);
      const int32_t id = order[static_cast<size_t>(k)];
      expect_equal(got.ids[at], id, "expert of rank " + std::to_string(k));
      const bool divides = renormalize || rule == Rule::topk_softmax;
      expect_near(got.weights[at], weight[static_cast<size_t>(id)] / (divides ? sum : 1) * scale, 1e-6,
                  "weight of rank " + std::to_string(k));
    }
  }
};

const Test rules("router: every rule in f64, odd sizes, with and without bias and renormalisation", [] {
  for (const Rule rule : {Rule::softmax_topk, Rule::topk_softmax, Rule::sigmoid})
    for (const bool renormalize : {false, true})
      for (const auto& [experts, top_k] : {std::pair{1, 1}, {5, 5}, {8, 2}, {67, 6}, {128, 8}}) {
        const RouterCase router{rule, experts, top_k, renormalize, renormalize ? 2.5f : 1.0f};
        Rows logits(9, experts), bias(1, experts);
        logits.fill(3, 4);
        bias.fill(4);
        for (Rows* with : {static_cast<Rows*>(nullptr), &bias}) {
          const Routing got = router.route(logits, with);
          for (int64_t row = 0; row < 9; ++row) router.check_row(logits, with, got, row);
        }
      }
});

const Test ties("router: ties go to the lower index", [] {
  Rows logits(1, 6);
  for (int64_t e = 0; e < 6; ++e) logits.at(0, e) = e % 2 == 0 ? 1.0f : 2.0f;
  for (const Rule rule : {Rule::softmax_topk, Rule::topk_softmax, Rule::sigmoid}) {
    const Routing got = RouterCase{rule, 6, 4}.route(logits, nullptr);
    expect(got.ids == std::vector<int32_t>{1, 3, 5, 0}, "1, 3, 5, 0");
  }
});

const Test not_a_number("router: ids are distinct and in range whatever the logits", [] {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  Rows logits(4, 7);
  logits.fill(5);
  for (int64_t e = 0; e < 7; ++e) logits.at(0, e) = nan, logits.at(1, e) = -inf;
  logits.at(2, 0) = logits.at(2, 4) = nan;
  logits.at(3, 2) = inf;
  for (const Rule rule : {Rule::softmax_topk, Rule::topk_softmax, Rule::sigmoid}) {
    Routing got = RouterCase{rule, 7, 3}.route(logits, nullptr);
    for (int row = 0; row < 4; ++row) {
      std::sort(got.ids.begin() + row * 3, got.ids.begin() + row * 3 + 3);
      for (int k = 0; k < 3; ++k) {
        const int32_t id = got.ids[static_cast<size_t>(row * 3 + k)];
        expect(id >= 0 && id < 7, "in range");
        expect(k == 0 || id != got.ids[static_cast<size_t>(row * 3 + k - 1)], "distinct");
      }
    }
  }
});

const Test too_many("router: more choices than experts are refused", [] {
  Rows logits(1, 3);
  logits.fill(1);
  expect_error(Code::invalid_program, [&] { RouterCase{Rule::sigmoid, 3, 4}.route(logits, nullptr); });
});

struct ExpertWeight {
  DType dtype;
  int64_t experts, n, k;
  std::vector<std::byte> bytes;
  cpu::PackedMatrix packed;

  ExpertWeight(DType dtype, int64_t experts, int64_t n, int64_t k, uint64_t seed)
      : dtype(dtype), experts(experts), n(n), k(k) {
    Random random(seed);
    bytes = random_weights(random, dtype, experts * n, k);
    const cpu::PartShape shape{dtype, n};
    packed = cpu::allocate_packed(cpu::plan_pack({&shape, 1}, k, {.experts = experts}));
    for (int64_t e = 0; e < experts; ++e)
      cpu::pack_rows(packed, e, 0, 0, n, bytes.data() + e * n * row_bytes());
  }
  int64_t row_bytes() const { return k / dtype_info(dtype).block_elements * dtype_info(dtype).block_bytes; }
  double at(int64_t expert, int64_t row, int64_t column) const {
    return weight_value(dtype, bytes.data() + (expert * n + row) * row_bytes(), column).sum();
  }
  Tensor tensor() const {
    Tensor tensor;
    tensor.packed = &packed;
    tensor.dtype = dtype;
    tensor.rank = 3;
    tensor.dims[0] = experts, tensor.dims[1] = n, tensor.dims[2] = k;
    return tensor;
  }
};

struct MoeCase {
  int64_t experts, dim, ff;
  int32_t top_k;
  bool has_up;
  Activation activation;
  ExpertWeight gate, up, down;

  MoeCase(DType dtype, int64_t experts, int64_t dim, int64_t ff, int32_t top_k, bool has_up,
          Activation activation)
      : experts(experts),
        dim(dim),
        ff(ff),
        top_k(top_k),
        has_up(has_up),
        activation(activation),
        gate(dtype, experts, ff, dim, 1),
        up(dtype, experts, ff, dim, 2),
        down(dtype, experts, dim, ff, 3) {}

  // [t, dim], contiguous.
  std::vector<float> run_moe(Rows& x, std::vector<int32_t> ids, Rows& weights, int threads,
                             cpu::Precision precision) const {
    Rows y(x.rows(), dim);
    Moe op{};
    op.x = x.tensor(), op.ids = id_rows(ids, top_k), op.weights = weights.tensor(), op.y = y.tensor();
    op.gate = gate.tensor(), op.down = down.tensor();
    if (has_up) op.up = up.tensor();
    op.activation = activation;
    op.t = x.rows(), op.dim = dim, op.top_k = top_k, op.experts = experts, op.ff = ff;
    run(cpu::moe, op, threads, precision);
    y.check_sentinels("moe");
    std::vector<float> result;
    for (int64_t r = 0; r < x.rows(); ++r)
      for (int64_t c = 0; c < dim; ++c) result.push_back(y.at(r, c));
    return result;
  }

  double act(double g) const {
    switch (activation) {
      case Activation::silu: return g / (1 + std::exp(-g));
      case Activation::gelu: return g / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
      case Activation::relu2: return g > 0 ? g * g : 0;
      case Activation::none: break;
    }
    return g;
  }

  std::vector<double> reference_row(const Rows& x, const std::vector<int32_t>& ids, const Rows& weights,
                                    int64_t row) const {
    std::vector<double> y(static_cast<size_t>(dim));
    for (int64_t k = 0; k < top_k; ++k) {
      const int64_t expert = ids[static_cast<size_t>(row * top_k + k)];
      std::vector<double> hidden;
      for (int64_t f = 0; f < ff; ++f) {
        double g = 0, u = 0;
        for (int64_t i = 0; i < dim; ++i)
          g += gate.at(expert, f, i) * x.at(row, i), u += up.at(expert, f, i) * x.at(row, i);
        hidden.push_back(act(g) * (has_up ? u : 1));
      }
      for (int64_t i = 0; i < dim; ++i) {
        double sum = 0;
        for (int64_t f = 0; f < ff; ++f) sum += down.at(expert, i, f) * hidden[static_cast<size_t>(f)];
        y[static_cast<size_t>(i)] += weights.at(row, k) * sum;
      }
    }
    return y;
  }
};

// top_k distinct experts a token; a few are popular, some idle.
std::vector<int32_t> some_experts(int64_t t, int64_t experts, int32_t top_k, uint64_t seed) {
  Numbers numbers(seed);
  std::vector<int32_t> ids;
  for (int64_t r = 0; r < t; ++r) {
    const size_t start = ids.size();
    while (ids.size() < start + static_cast<size_t>(top_k)) {
      const int32_t id = numbers.below(numbers.below(static_cast<int32_t>(experts)) + 1);
      if (std::find(ids.begin() + static_cast<std::ptrdiff_t>(start), ids.end(), id) == ids.end())
        ids.push_back(id);
    }
  }
  return ids;
}

void check_formula(const MoeCase& moe, int64_t t, cpu::Precision precision, double tolerance) {
  Rows x(t, moe.dim), weights(t, moe.top_k);
  x.fill(7);
  weights.fill(8);
  const auto ids = some_experts(t, moe.experts, moe.top_k, 9);
  const auto y = moe.run_moe(x, ids, weights, 2, precision);
  for (int64_t r = 0; r < t; ++r) {
    const auto expected = moe.reference_row(x, ids, weights, r);
    double size = 0;
    for (const double value : expected) size = std::max(size, std::abs(value));
    for (int64_t i = 0; i < moe.dim; ++i)
      expect_near(y[static_cast<size_t>(r * moe.dim + i)] / size, expected[static_cast<size_t>(i)] / size,
                  tolerance, "row " + std::to_string(r) + ", column " + std::to_string(i));
  }
}

const Test formula("moe: the formula in f64, gated or not, every activation", [] {
  constexpr double kExact = 1e-5,
                   kInt8 = 3e-2;  // int8: the rounding of activations to 1 / 254 of the largest of 32, twice
  at_every_level([&](const std::string&) {
    for (const Activation activation :
         {Activation::none, Activation::silu, Activation::gelu, Activation::relu2})
      for (const bool has_up : {true, false}) {
        check_formula({DType::f32, 5, 33, 17, 2, has_up, activation}, 11, cpu::Precision::exact, kExact);
        check_formula({DType::q4_0, 7, 64, 96, 3, has_up, activation}, 6, cpu::Precision::exact, kExact);
      }
    check_formula({DType::bf16, 1, 32, 8, 1, true, Activation::silu}, 3, cpu::Precision::exact, kExact);
    check_formula({DType::q8_0, 6, 64, 96, 6, true, Activation::silu}, 4, cpu::Precision::exact, kExact);
    check_formula({DType::q4_1, 6, 96, 64, 2, true, Activation::silu}, 9, cpu::Precision::int8, kInt8);
    check_formula({DType::q8_0, 6, 96, 64, 2, true, Activation::silu}, 9, cpu::Precision::int8, kInt8);
  });
});

const Test alone("moe: a token has the same bits alone, in a batch, in any order, on one thread or two", [] {
  constexpr int64_t kTokens = 90;
  at_every_level([&](const std::string& level) {
    for (const cpu::Precision precision : {cpu::Precision::int8, cpu::Precision::exact}) {
      const MoeCase moe(DType::q4_0, 6, 64, 96, 2, true, Activation::silu);
      Rows x(kTokens, moe.dim), weights(kTokens, moe.top_k);
      x.fill(17);
      weights.fill(18);
      const auto ids = some_experts(kTokens, moe.experts, moe.top_k, 19);
      const auto all = moe.run_moe(x, ids, weights, 1, precision);
      expect_same_bits(moe.run_moe(x, ids, weights, 2, precision).data(), all.data(), kTokens * moe.dim,
                       level + ", two threads");
      for (int64_t count : {1, 13}) {
        for (int64_t first = 0; first + count <= kTokens; first += 29) {
          Rows some(count, moe.dim), some_weights(count, moe.top_k);
          std::vector<int32_t> some_ids;
          for (int64_t r = 0; r < count; ++r) {
            const int64_t from = first + count - 1 - r;  // backwards
            for (int64_t i = 0; i < moe.dim; ++i) some.at(r, i) = x.at(from, i);
            for (int64_t k = 0; k < moe.top_k; ++k) {
              some_weights.at(r, k) = weights.at(from, k);
              some_ids.push_back(ids[static_cast<size_t>(from * moe.top_k + k)]);
            }
          }
          const auto y = moe.run_moe(some, some_ids, some_weights, 2, precision);
          for (int64_t r = 0; r < count; ++r)
            expect_same_bits(y.data() + r * moe.dim, all.data() + (first + count - 1 - r) * moe.dim, moe.dim,
                             level + ", " + std::to_string(count) + " from " + std::to_string(first));
        }
      }
    }
  });
});

const Test wrong_ids("moe: an id outside the experts is refused", [] {
  const MoeCase moe(DType::f32, 3, 8, 8, 1, true, Activation::silu);
  Rows x(2, 8), weights(2, 1);
  x.fill(1);
  weights.fill(2);
  for (const int32_t wrong : {-1, 3, INT32_MAX, INT32_MIN})
    expect_error(Code::invalid_argument,
                 [&] { moe.run_moe(x, {0, wrong}, weights, 2, cpu::Precision::exact); });
});

}  // namespace
}  // namespace crosscurrent::test
