// causal_conv1d against f64, and exactness of its window.
#include "native/ops.gen.h"
#include "state_ops.h"

namespace crosscurrent::cpu {
void causal_conv1d(const CausalConv1d& a, Context& context);
}

namespace crosscurrent::test {
namespace {

constexpr double kTolerance = 1e-6;

struct Conv {
  int64_t channels, kernel;
  bool has_bias;
  Activation activation;
  std::vector<float> weight, bias;
  StateOp op;

  Conv(int64_t channels, int64_t kernel, bool has_bias, Activation activation)
      : channels(channels), kernel(kernel), has_bias(has_bias), activation(activation) {
    Noise noise(static_cast<uint64_t>(channels * 10 + kernel));
    weight = noise.list(channels * kernel);
    bias = noise.list(channels);
    op = {.in = channels,
          .out = channels,
          .elements = (kernel - 1) * channels,
          .pending = channels,
          .kind = StateKind::conv,
          .run = {}};
    op.tokens = noise.list(kVocab * channels, 2);
    op.run = [this](const Tensor& in, const Tensor& out, const StateView& state, cpu::Context& context) {
      CausalConv1d a{};
      a.x = in;
      a.weight = tensor(weight, {this->channels, this->kernel});
      if (this->has_bias) a.bias = tensor(bias, {this->channels});
      a.window = state;
      a.y = out;
      a.activation = this->activation;
      a.t = in.dims[0];
      a.channels = this->channels;
      a.kernel = this->kernel;
      cpu::causal_conv1d(a, context);
    };
  }
  Conv(const Conv&) = delete;

  double act(double x) const {
    switch (activation) {
      case Activation::silu: return x / (1 + std::exp(-x));
      case Activation::gelu: return x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
      case Activation::relu2: return x > 0 ? x * x : 0;
      case Activation::none: break;
    }
    return x;
  }

  std::vector<double> reference(const std::vector<int32_t>& ids) const {
    std::vector<double> y;
    for (int64_t t = 0; t < static_cast<int64_t>(ids.size()); ++t) {
      for (int64_t c = 0; c < channels; ++c) {
        double sum = has_bias ? bias[static_cast<size_t>(c)] : 0;
        for (int64_t j = 0; j < kernel; ++j) {
          const int64_t from = t - kernel + 1 + j;
          if (from < 0) continue;
          sum += static_cast<double>(weight[static_cast<size_t>(c * kernel + j)]) *
                 op.tokens[static_cast<size_t>(ids[static_cast<size_t>(from)] * channels + c)];
        }
        y.push_back(act(sum));
      }
    }
    return y;
  }
};

const Test formula("causal_conv1d: the formula in f64, all kernels, activations and odd widths", [] {
  at_each_level([] {
    for (const int64_t channels : {1, 7, 8, 33, 300})
      for (int64_t kernel = 2; kernel <= 8; ++kernel)
        for (const Activation activation :
             {Activation::none, Activation::silu, Activation::gelu, Activation::relu2}) {
          const Conv conv(channels, kernel, kernel % 2 == 0, activation);
          Machine machine(conv.op);
          const auto ids = some_ids(11, 3);
          const auto y = Sequence{&machine}.prefill(ids);
          check_close(y, conv.reference(ids), kTolerance,
                      std::to_string(channels) + " channels, kernel " + std::to_string(kernel));
        }
  });
});

const Test window("causal_conv1d: the window holds the last inputs, oldest first, zeros before the start",
                  [] {
                    const Conv conv(5, 4, true, Activation::silu);
                    Machine machine(conv.op);
                    Sequence sequence{&machine};
                    sequence.prefill({3, 9});
                    std::vector<float> expected(5, 0.0f);
                    for (const int id : {3, 9})
                      expected.insert(expected.end(), conv.op.tokens.begin() + id * 5,
                                      conv.op.tokens.begin() + id * 5 + 5);
                    expect_same(machine.committed(sequence.slot), expected, "window");
                  });

const Test exact(
    "causal_conv1d: cuts, classes, chains, trees, rollback, fork, mates and threads give the same bits", [] {
      check_exact(Conv(40, 4, true, Activation::silu).op);
      check_exact(Conv(21, 3, false, Activation::none).op);
      check_exact(Conv(13, 8, true, Activation::gelu).op);
      check_exact(Conv(3000, 4, true, Activation::silu).op);  // wide enough for two threads
    });

const Test wrong_sizes("causal_conv1d: a state or kernel of the wrong size is refused", [] {
  Conv conv(8, 4, true, Activation::silu);
  conv.op.elements += 1;
  Machine machine(conv.op);
  expect_error(Code::invalid_program, [&] { Sequence{&machine}.prefill({1}); });
  const Conv long_kernel(8, 9, true, Activation::silu);
  Machine other(long_kernel.op);
  expect_error(Code::invalid_program, [&] { Sequence{&other}.prefill({1}); });
});

}  // namespace
}  // namespace crosscurrent::test
