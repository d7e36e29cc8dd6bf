// The ops whose rows are independent: add, act_mul, rms_norm, gated_rms_norm, rope, gather_rows.
#include "native/ops.gen.h"
#include "op_buffers.h"
#include "step_builder.h"

namespace crosscurrent::cpu {
void add(const Add& a, Context& context);
void act_mul(const ActMul& a, Context& context);
void rms_norm(const RmsNorm& a, Context& context);
void gated_rms_norm(const GatedRmsNorm& a, Context& context);
void rope(const Rope& a, Context& context);
void gather_rows(const GatherRows& a, Context& context);
}  // namespace crosscurrent::cpu

namespace crosscurrent::test {
namespace {

template <class Op>
void run(void (*kernel)(const Op&, cpu::Context&), const Op& op, int threads = 1) {
  const BuiltStep built = build_step(StepClass::prefill, {{.ids = {0}}});
  cpu::Workspace workspace;
  cpu::Context context{built.step, workspace, threads, cpu::Precision::exact};
  kernel(op, context);
}

// Rows are the same alone and on two threads: `call(first_row, rows, y, threads)` writes rows of y.
void check_rows(int64_t rows, int64_t columns, const std::function<void(int64_t, int64_t, Tensor, int)>& call,
                const std::string& what) {
  Rows together(rows, columns), threaded(rows, columns);
  call(0, rows, together.tensor(), 1);
  call(0, rows, threaded.tensor(), 2);
  together.check_sentinels(what);
  threaded.check_sentinels(what);
  for (int64_t r = 0; r < rows; ++r) {
    Rows alone(1, columns);
    call(r, 1, alone.tensor(), 1);
    expect_same_bits(&alone.at(0, 0), &together.at(r, 0), columns, what + ", alone");
    expect_same_bits(&threaded.at(r, 0), &together.at(r, 0), columns, what + ", threads");
  }
}

Tensor from_row(Tensor tensor, int64_t row, int64_t rows) {
  tensor.data = reinterpret_cast<std::byte*>(tensor.f32(row));
  tensor.dims[0] = rows;
  return tensor;
}

const int kWidths[] = {1, 2, 7, 8, 9, 15, 16, 17, 33, 576};

double silu(double x) { return x / (1 + std::exp(-x)); }

const Test adds("add: y = a + scale b", [] {
  constexpr double kTolerance = 1e-7;
  for (const int dim : kWidths) {
    Rows a(5, dim), b(5, dim);
    a.fill(1), b.fill(2);
    const auto call = [&](int64_t row, int64_t rows, Tensor y, int threads) {
      Add op{};
      op.a = from_row(a.tensor(), row, rows), op.b = from_row(b.tensor(), row, rows), op.y = y;
      op.scale = 0.3f, op.rows = rows, op.dim = dim;
      run(cpu::add, op, threads);
    };
    check_rows(5, dim, call, "add");
    Rows y(5, dim);
    call(0, 5, y.tensor(), 1);
    for (int r = 0; r < 5; ++r)
      for (int c = 0; c < dim; ++c)
        expect_near(y.at(r, c), a.at(r, c) + static_cast<double>(0.3f) * b.at(r, c), kTolerance, "add");
  }
});

double activate(Activation activation, double g) {
  switch (activation) {
    case Activation::silu: return silu(g);
    case Activation::gelu: return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
    case Activation::relu2: return g > 0 ? g * g : 0;
    case Activation::none: break;
  }
  return g;
}

const Test act_muls("act_mul: every activation, with and without up, as slices of one buffer", [] {
  constexpr double kTolerance = 1e-6;
  at_every_level([](const std::string& level) {
    for (const Activation activation :
         {Activation::none, Activation::silu, Activation::gelu, Activation::relu2}) {
      for (const int ff : kWidths) {
        for (const bool has_up : {true, false}) {
          Rows both(3, 2 * ff);
          both.fill(static_cast<uint64_t>(ff), 6);
          const auto call = [&](int64_t row, int64_t rows, Tensor y, int threads) {
            ActMul op{};
            op.gate = from_row(both.slice(0, ff), row, rows);
            if (has_up) op.up = from_row(both.slice(ff, ff), row, rows);
            op.y = y, op.activation = activation, op.rows = rows, op.ff = ff;
            run(cpu::act_mul, op, threads);
          };
          check_rows(3, ff, call, level + ", act_mul");
          Rows y(3, ff);
          call(0, 3, y.tensor(), 1);
          for (int r = 0; r < 3; ++r)
            for (int c = 0; c < ff; ++c)
              expect_near(y.at(r, c), activate(activation, both.at(r, c)) * (has_up ? both.at(r, ff + c) : 1),
                          kTolerance, level + ", act_mul");
        }
      }
    }
  });
});

const Test extremes("act_mul: silu of large, infinite and missing numbers", [] {
  at_every_level([](const std::string& level) {
    Rows gate(1, 9), y(1, 9);
    const float values[] = {-1e30f, -200, -88.5f, -20, 0, 20, 88.5f, 200, 1e30f};
    for (int i = 0; i < 9; ++i) gate.at(0, i) = values[i];
    ActMul op{};
    op.gate = gate.tensor(), op.y = y.tensor(), op.activation = Activation::silu, op.rows = 1, op.ff = 9;
    run(cpu::act_mul, op);
    for (int i = 1; i < 9; ++i) expect_near(y.at(0, i), silu(values[i]), 1e-6, level + ", silu");
    gate.at(0, 4) = NAN;
    for (const Activation activation :
         {Activation::none, Activation::silu, Activation::gelu, Activation::relu2}) {
      op.activation = activation;
      run(cpu::act_mul, op);
      expect(std::isnan(y.at(0, 4)) && !std::isnan(y.at(0, 3)) && !std::isnan(y.at(0, 5)),
             level + ": NaN reaches its own element alone");
    }
  });
});

const Test norms("rms_norm: groups of many widths, with and without weight", [] {
  constexpr double kTolerance = 2e-6;
  for (const int width : kWidths) {
    for (const int groups : {1, 3}) {
      for (const bool has_weight : {true, false}) {
        Rows x(4, groups * width), weight(1, width);
        x.fill(3, 2), weight.fill(4);
        const auto call = [&](int64_t row, int64_t rows, Tensor y, int threads) {
          RmsNorm op{};
          op.x = from_row(x.tensor(), row, rows), op.y = y;
          if (has_weight) op.weight = weight.vector();
          op.width = width, op.eps = 1e-5f, op.rows = rows, op.groups = groups;
          run(cpu::rms_norm, op, threads);
        };
        check_rows(4, groups * width, call, "rms_norm");
        Rows y(4, groups * width);
        call(0, 4, y.tensor(), 1);
        for (int r = 0; r < 4; ++r) {
          for (int g = 0; g < groups; ++g) {
            double squares = 0;
            for (int c = 0; c < width; ++c)
              squares += static_cast<double>(x.at(r, g * width + c)) * x.at(r, g * width + c);
            for (int c = 0; c < width; ++c)
              expect_near(y.at(r, g * width + c),
                          x.at(r, g * width + c) / std::sqrt(squares / width + 1e-5) *
                              (has_weight ? weight.at(0, c) : 1),
                          kTolerance, "rms_norm of width " + std::to_string(width));
          }
        }
      }
    }
  }
});

const Test gated_norms("gated_rms_norm: groups of many widths", [] {
  constexpr double kTolerance = 3e-6;
  for (const int width : kWidths) {
    for (const int groups : {1, 2}) {
      const int dim = groups * width;
      Rows both(4, 2 * dim), weight(1, dim);
      both.fill(5, 3), weight.fill(6);
      const auto call = [&](int64_t row, int64_t rows, Tensor y, int threads) {
        GatedRmsNorm op{};
        op.x = from_row(both.slice(0, dim), row, rows), op.z = from_row(both.slice(dim, dim), row, rows),
        op.weight = weight.vector(), op.y = y;
        op.width = width, op.eps = 1e-5f, op.rows = rows, op.groups = groups;
        run(cpu::gated_rms_norm, op, threads);
      };
      check_rows(4, dim, call, "gated_rms_norm");
      Rows y(4, dim);
      call(0, 4, y.tensor(), 1);
      for (int r = 0; r < 4; ++r) {
        for (int g = 0; g < groups; ++g) {
          const auto h = [&](int c) {
            return both.at(r, g * width + c) * silu(both.at(r, dim + g * width + c));
          };
          double squares = 0;
          for (int c = 0; c < width; ++c) squares += h(c) * h(c);
          for (int c = 0; c < width; ++c)
            expect_near(y.at(r, g * width + c),
                        h(c) / std::sqrt(squares / width + 1e-5) * weight.at(0, g * width + c), kTolerance,
                        "gated_rms_norm of width " + std::to_string(width));
        }
      }
    }
  }
});

const Test ropes("rope: both pairings, part of a head, near and far positions", [] {
  constexpr double kTolerance = 1e-6;
  for (const int half : {1, 3, 16, 33}) {
    for (const int rest : {0, 5}) {
      for (const bool interleaved : {false, true}) {
        const int heads = 3, head_dim = 2 * half + rest;
        std::vector<int32_t> position = {0, 1, 17, 4095, 131071, 1000003};
        const auto t = static_cast<int64_t>(position.size());
        Rows x(t, heads * head_dim), inv_freq(1, half);
        x.fill(7);
        for (int i = 0; i < half; ++i)
          inv_freq.at(0, i) = static_cast<float>(std::pow(10000.0, -static_cast<double>(i) / half));
        const auto call = [&](int64_t row, int64_t rows, Tensor y, int threads) {
          Rope op{};
          op.x = from_row(x.tensor(), row, rows), op.inv_freq = inv_freq.vector(), op.y = y;
          op.position = tensor_of(position);
          op.position.data += static_cast<size_t>(row) * sizeof(int32_t);
          op.head_dim = head_dim, op.interleaved = interleaved, op.scale = 1.25f, op.t = rows,
          op.heads = heads, op.half = half;
          run(cpu::rope, op, threads);
        };
        check_rows(t, heads * head_dim, call, "rope");
        Rows y(t, heads * head_dim);
        call(0, t, y.tensor(), 1);
        for (int64_t r = 0; r < t; ++r) {
          for (int h = 0; h < heads; ++h) {
            for (int i = 0; i < half; ++i) {
              const int a = h * head_dim + (interleaved ? 2 * i : i), b = interleaved ? a + 1 : a + half;
              const float theta = static_cast<float>(position[static_cast<size_t>(r)]) *
                                  inv_freq.at(0, i);  // f32, as the definition says
              const double cosine = std::cos(static_cast<double>(theta)),
                           sine = std::sin(static_cast<double>(theta));
              expect_near(y.at(r, a), (x.at(r, a) * cosine - x.at(r, b) * sine) * 1.25, kTolerance,
                          "rope, first of a pair");
              expect_near(y.at(r, b), (x.at(r, b) * cosine + x.at(r, a) * sine) * 1.25, kTolerance,
                          "rope, second of a pair");
            }
            for (int i = 2 * half; i < head_dim; ++i)
              expect_equal(y.at(r, h * head_dim + i), x.at(r, h * head_dim + i),
                           "rope passes the rest through");
          }
        }
      }
    }
  }
});

const Test gathers("gather_rows: copies rows, refuses others", [] {
  Rows x(6, 13), y(4, 13);
  x.fill(8);
  std::vector<int32_t> index = {5, 0, 5, 2};
  GatherRows op{};
  op.x = x.tensor(), op.index = tensor_of(index), op.y = y.tensor(), op.t = 6, op.dim = 13, op.rows = 4;
  run(cpu::gather_rows, op);
  for (int r = 0; r < 4; ++r)
    expect_same_bits(&y.at(r, 0), &x.at(index[static_cast<size_t>(r)], 0), 13, "gather_rows");
  y.check_sentinels("gather_rows");
  for (const int32_t wrong : {-1, 6}) {
    index[1] = wrong;
    expect_error(Code::invalid_argument, [&] { run(cpu::gather_rows, op); });
  }
});

}  // namespace
}  // namespace crosscurrent::test
