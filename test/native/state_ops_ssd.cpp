// ssd against f64, and exactness of its state.
#include "native/ops.gen.h"
#include "state_ops.h"

namespace crosscurrent::cpu {
void ssd(const Ssd& a, Context& context);
}

namespace crosscurrent::test {
namespace {

constexpr double kTolerance = 2e-6;

struct Shape {
  int64_t heads, head_dim, states, groups;
};

struct SsdCase {
  Shape shape;
  float dt_min, dt_max;
  std::vector<float> a, d, dt_bias;
  StateOp op;

  // A token is one row [x, b, c, dt], as in_proj leaves it.
  int64_t width() const { return shape.heads * shape.head_dim; }
  int64_t b_at() const { return width(); }
  int64_t c_at() const { return width() + shape.groups * shape.states; }
  int64_t dt_at() const { return width() + 2 * shape.groups * shape.states; }

  explicit SsdCase(Shape shape, float dt_min = 0, float dt_max = std::numeric_limits<float>::infinity())
      : shape(shape), dt_min(dt_min), dt_max(dt_max) {
    Noise noise(static_cast<uint64_t>(shape.heads * 1000 + shape.head_dim * 100 + shape.states));
    a = noise.list(shape.heads, 4, -4.05f);
    d = noise.list(shape.heads);
    dt_bias = noise.list(shape.heads, 3, -2);
    op = {.in = dt_at() + shape.heads,
          .out = width(),
          .elements = width() * shape.states,
          .pending = width() + shape.heads + shape.groups * shape.states,
          .kind = StateKind::scan,
          .run = {}};
    op.tokens = noise.list(kVocab * op.in, 2);
    op.run = [this](const Tensor& in, const Tensor& out, const StateView& state, cpu::Context& context) {
      const Shape& s = this->shape;
      Ssd ssd{};
      ssd.x = columns(in, 0, width());
      ssd.dt = columns(in, dt_at(), s.heads);
      ssd.dt_bias = tensor(dt_bias, {s.heads});
      ssd.a = tensor(a, {s.heads});
      ssd.b = columns(in, b_at(), s.groups * s.states);
      ssd.c = columns(in, c_at(), s.groups * s.states);
      ssd.d = tensor(d, {s.heads});
      ssd.s = state;
      ssd.y = out;
      ssd.head_dim = static_cast<int32_t>(s.head_dim);
      ssd.groups = static_cast<int32_t>(s.groups);
      ssd.dt_min = this->dt_min;
      ssd.dt_max = this->dt_max;
      ssd.t = in.dims[0];
      ssd.heads = s.heads;
      ssd.states = s.states;
      cpu::ssd(ssd, context);
    };
  }
  SsdCase(const SsdCase&) = delete;

  // y and S, from the formula.
  std::pair<std::vector<double>, std::vector<double>> reference(const std::vector<int32_t>& ids) const {
    std::vector<double> y, state(static_cast<size_t>(op.elements));
    for (const int32_t id : ids) {
      const float* token = op.tokens.data() + id * op.in;
      for (int64_t h = 0; h < shape.heads; ++h) {
        const auto head = static_cast<size_t>(h);
        double delta = std::log1p(std::exp(static_cast<double>(token[dt_at() + h]) + dt_bias[head]));
        delta = std::min(std::max(delta, static_cast<double>(dt_min)), static_cast<double>(dt_max));
        const int64_t group = h * shape.groups / shape.heads * shape.states;
        for (int64_t p = 0; p < shape.head_dim; ++p) {
          const double x = token[h * shape.head_dim + p];
          double sum = d[head] * x;
          for (int64_t n = 0; n < shape.states; ++n) {
            double& s = state[static_cast<size_t>((h * shape.head_dim + p) * shape.states + n)];
            s = std::exp(delta * a[head]) * s + delta * x * token[b_at() + group + n];
            sum += s * token[c_at() + group + n];
          }
          y.push_back(sum);
        }
      }
    }
    return {y, state};
  }
};

void check_formula(const SsdCase& ssd) {
  Machine machine(ssd.op);
  Sequence sequence{&machine};
  const auto ids = some_ids(23, 3);
  const auto y = sequence.prefill(ids);
  const auto [expected, state] = ssd.reference(ids);
  const std::string what = std::to_string(ssd.shape.heads) + " heads of " +
                           std::to_string(ssd.shape.head_dim) + " x " + std::to_string(ssd.shape.states);
  check_close(y, expected, kTolerance, what);
  check_close(machine.committed(sequence.slot), state, kTolerance, what + ": state");
}

const Test formula("ssd: the formula in f64, odd sizes, several groups", [] {
  at_each_level([] {
    for (const Shape shape :
         {Shape{1, 1, 1, 1}, {3, 5, 7, 1}, {4, 8, 16, 2}, {9, 6, 12, 3}, {2, 33, 130, 1}, {6, 4, 8, 6}})
      check_formula(SsdCase(shape));
  });
});

const Test clamp("ssd: dt is clamped at both ends in both classes", [] {
  const SsdCase ssd({5, 4, 8, 1}, 0.05f, 0.4f);
  check_formula(ssd);
  check_exact(ssd.op);
});

const Test exact("ssd: cuts, classes, chains, trees, rollback, fork, mates and threads give the same bits",
                 [] {
                   check_exact(SsdCase({3, 5, 7, 1}).op);
                   check_exact(SsdCase({4, 10, 20, 2}).op);
                   check_exact(
                       SsdCase({4, 64, 128, 1}).op);  // two blocks a head, wide enough for two threads
                 });

const Test wrong_size("ssd: a state of the wrong size is refused", [] {
  SsdCase ssd({3, 5, 7, 1});
  ssd.op.elements -= 1;
  Machine machine(ssd.op);
  expect_error(Code::invalid_program, [&] { Sequence{&machine}.prefill({1}); });
});

}  // namespace
}  // namespace crosscurrent::test
