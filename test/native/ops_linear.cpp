// embedding and linear over packed weights; the products themselves are tested in matmul_test.cpp.
#include "native/cpu/pack.h"
#include "native/ops.gen.h"
#include "op_buffers.h"
#include "step_builder.h"
#include "weight_reference.h"

namespace crosscurrent::cpu {
void embedding(const Embedding& a, Context& context);
void linear(const Linear& a, Context& context);
}  // namespace crosscurrent::cpu

namespace crosscurrent::test {
namespace {

struct Weight {
  DType dtype;
  int64_t n, k;
  std::vector<std::byte> bytes;
  cpu::PackedMatrix packed;

  Weight(DType dtype, int64_t n, int64_t k, bool keep_stored, uint64_t seed) : dtype(dtype), n(n), k(k) {
    Random random(seed);
    bytes = random_weights(random, dtype, n, k);
    const cpu::WeightView view{dtype, n, k, bytes.data()};
    packed = cpu::pack({&view, 1}, {.keep_stored = keep_stored});
  }
  double at(int64_t row, int64_t column) const {
    const DTypeInfo info = dtype_info(dtype);
    return weight_value(dtype, bytes.data() + row * (k / info.block_elements * info.block_bytes), column)
        .sum();
  }
  Tensor tensor() const {
    Tensor tensor;
    tensor.packed = &packed;
    tensor.dtype = dtype;
    tensor.rank = 2;
    tensor.dims[0] = n;
    tensor.dims[1] = k;
    return tensor;
  }
};

template <class Op>
void run(void (*kernel)(const Op&, cpu::Context&), const Op& op, int threads, cpu::Precision precision) {
  const BuiltStep built = build_step(StepClass::prefill, {{.ids = {0}}});
  cpu::Workspace workspace;
  cpu::Context context{built.step, workspace, threads, precision};
  kernel(op, context);
}

const Test embeddings("embedding: rows of every stored type, scaled", [] {
  constexpr double kTolerance = 1e-6;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::q8_0, DType::q4_1, DType::q6_k}) {
    const int64_t dim = dtype == DType::q6_k ? 256 : 96;
    const Weight weight(dtype, 37, dim, true, 1);
    std::vector<int32_t> ids = {36, 0, 5, 5, 17};
    for (const float scale : {1.0f, 12.0f}) {
      Rows y(5, dim);
      Embedding op{};
      op.ids = tensor_of(ids), op.weight = weight.tensor(), op.y = y.tensor();
      op.scale = scale, op.t = 5, op.vocab = 37, op.dim = dim;
      run(cpu::embedding, op, 2, cpu::Precision::exact);
      y.check_sentinels("embedding");
      for (int r = 0; r < 5; ++r)
        for (int64_t c = 0; c < dim; ++c)
          expect_near(y.at(r, c), weight.at(ids[static_cast<size_t>(r)], c) * scale, kTolerance,
                      "embedding of " + std::string(dtype_info(dtype).name));
      for (const int32_t wrong : {-1, 37}) {
        std::vector<int32_t> bad = {0, 0, wrong, 0, 0};
        op.ids = tensor_of(bad);
        expect_error(Code::token_out_of_range, [&] { run(cpu::embedding, op, 1, cpu::Precision::exact); });
      }
    }
  }
});

struct LinearCase {
  const Weight& weight;
  Rows x, bias, residual;
  bool has_bias, has_residual;
  float scale;

  void run(int64_t row, int64_t rows, Rows& y, int threads, cpu::Precision precision, bool exact) {
    const auto from = [&](Tensor tensor) {
      tensor.data = reinterpret_cast<std::byte*>(tensor.f32(row));
      tensor.dims[0] = rows;
      return tensor;
    };
    Linear op{};
    op.x = from(x.tensor()), op.weight = weight.tensor(), op.y = y.tensor();
    if (has_bias) op.bias = bias.vector();
    if (has_residual) op.residual = from(residual.tensor());
    op.scale = scale, op.exact = exact, op.rows = rows, op.in = weight.k, op.out = weight.n;
    test::run(cpu::linear, op, threads, precision);
    y.check_sentinels("linear");
  }
};

const Test linears("linear: scale, bias and residual, present or not; exact and int8 activations", [] {
  constexpr double kExact = 1e-5, kInt8 = 3e-2;
  at_every_level([](const std::string& level) {
    for (const DType dtype : {DType::q4_1, DType::f32}) {
      const Weight weight(dtype, 43, 96, false, 2);
      for (const bool has_bias : {false, true}) {
        for (const bool has_residual : {false, true}) {
          for (const float scale : {1.0f, 0.37f}) {
            LinearCase c{weight, Rows(5, 96), Rows(1, 43), Rows(5, 43), has_bias, has_residual, scale};
            c.x.fill(3), c.bias.fill(4), c.residual.fill(5);
            for (const bool exact : {true, false}) {
              const cpu::Precision precision = exact ? cpu::Precision::exact : cpu::Precision::int8;
              Rows y(5, 43), threaded(5, 43);
              c.run(0, 5, y, 1, precision, false);
              c.run(0, 5, threaded, 2, precision, false);
              for (int r = 0; r < 5; ++r) {
                Rows alone(1, 43);
                c.run(r, 1, alone, 1, precision, false);
                expect_same_bits(&alone.at(0, 0), &y.at(r, 0), 43, level + ", linear, alone");
                expect_same_bits(&threaded.at(r, 0), &y.at(r, 0), 43, level + ", linear, threads");
                for (int o = 0; o < 43; ++o) {
                  double sum = has_bias ? c.bias.at(0, o) : 0, size = 0;
                  for (int i = 0; i < 96; ++i) {
                    sum += c.x.at(r, i) * weight.at(o, i);
                    size += std::abs(c.x.at(r, i) * weight.at(o, i));
                  }
                  const double expected = sum * scale + (has_residual ? c.residual.at(r, o) : 0);
                  const double allowed = (exact ? kExact : kInt8) * (1 + size);
                  expect(std::abs(y.at(r, o) - expected) <= allowed, level + ", linear: expected " +
                                                                         std::to_string(expected) + ", got " +
                                                                         std::to_string(y.at(r, o)));
                }
              }
              if (exact) continue;
              Rows forced(5, 43), reference(5, 43);  // the attribute wins over the session
              c.run(0, 5, forced, 1, cpu::Precision::int8, true);
              c.run(0, 5, reference, 1, cpu::Precision::exact, false);
              for (int r = 0; r < 5; ++r)
                expect_same_bits(&forced.at(r, 0), &reference.at(r, 0), 43,
                                 level + ", linear, exact by attribute");
            }
          }
        }
      }
    }
  });
});

}  // namespace
}  // namespace crosscurrent::test
