// selective_scan against f64, and exactness of its state.
#include "native/ops.gen.h"
#include "state_ops.h"

namespace crosscurrent::cpu {
void selective_scan(const SelectiveScan& a, Context& context);
}

namespace crosscurrent::test {
namespace {

constexpr double kTolerance = 2e-6;

struct Scan {
  int64_t channels, states;
  bool has_gate;
  std::vector<float> a, d, dt_bias;
  StateOp op;

  // A token is one row [z, x, dt, b, c], as projections leave it.
  int64_t x_at() const { return channels; }
  int64_t dt_at() const { return 2 * channels; }
  int64_t b_at() const { return 3 * channels; }
  int64_t c_at() const { return 3 * channels + states; }

  Scan(int64_t channels, int64_t states, bool has_gate, float dt_offset = 0)
      : channels(channels), states(states), has_gate(has_gate) {
    Noise noise(static_cast<uint64_t>(channels * 100 + states));
    a = noise.list(channels * states, 4, -4.05f);
    d = noise.list(channels);
    dt_bias = noise.list(channels, 3, dt_offset - 2);
    op = {.in = 3 * channels + 2 * states,
          .out = channels,
          .elements = channels * states,
          .pending = 2 * channels + states,
          .kind = StateKind::scan,
          .run = {}};
    op.tokens = noise.list(kVocab * op.in, 2);
    op.run = [this](const Tensor& in, const Tensor& out, const StateView& state, cpu::Context& context) {
      SelectiveScan scan{};
      scan.x = columns(in, x_at(), this->channels);
      scan.dt = columns(in, dt_at(), this->channels);
      scan.dt_bias = tensor(dt_bias, {this->channels});
      scan.a = tensor(a, {this->channels, this->states});
      scan.b = columns(in, b_at(), this->states);
      scan.c = columns(in, c_at(), this->states);
      scan.d = tensor(d, {this->channels});
      if (this->has_gate) scan.z = columns(in, 0, this->channels);
      scan.h = state;
      scan.y = out;
      scan.t = in.dims[0];
      scan.channels = this->channels;
      scan.states = this->states;
      cpu::selective_scan(scan, context);
    };
  }
  Scan(const Scan&) = delete;

  // y and h, from the formula.
  std::pair<std::vector<double>, std::vector<double>> reference(const std::vector<int32_t>& ids) const {
    std::vector<double> y, h(static_cast<size_t>(channels * states));
    for (const int32_t id : ids) {
      const float* token = op.tokens.data() + id * op.in;
      for (int64_t ch = 0; ch < channels; ++ch) {
        const double x = token[x_at() + ch], z = token[ch];
        const double delta =
            std::log1p(std::exp(static_cast<double>(token[dt_at() + ch]) + dt_bias[static_cast<size_t>(ch)]));
        double sum = d[static_cast<size_t>(ch)] * x;
        for (int64_t n = 0; n < states; ++n) {
          const auto at = static_cast<size_t>(ch * states + n);
          h[at] = std::exp(delta * a[at]) * h[at] + delta * token[b_at() + n] * x;
          sum += token[c_at() + n] * h[at];
        }
        y.push_back(has_gate ? sum * z / (1 + std::exp(-z)) : sum);
      }
    }
    return {y, h};
  }
};

const Test formula("selective_scan: the formula in f64, odd sizes, with and without gate", [] {
  at_each_level([] {
    for (const int64_t channels : {1, 7, 8, 9, 40})
      for (const int64_t states : {1, 3, 8, 16, 21})
        for (const float dt_offset : {-12.0f, 0.0f, 25.0f}) {  // both ends of softplus
          const Scan scan(channels, states, states % 2 == 0, dt_offset);
          Machine machine(scan.op);
          Sequence sequence{&machine};
          const auto ids = some_ids(37, 3);
          const auto y = sequence.prefill(ids);
          const auto [expected, h] = scan.reference(ids);
          const std::string what =
              std::to_string(channels) + " channels, " + std::to_string(states) + " states";
          check_close(y, expected, kTolerance, what);
          check_close(machine.committed(sequence.slot), h, kTolerance, what + ": h");
        }
  });
});

const Test exact(
    "selective_scan: cuts, classes, chains, trees, rollback, fork, mates and threads give the same bits", [] {
      check_exact(Scan(19, 16, true).op);
      check_exact(Scan(8, 5, false).op);
      check_exact(Scan(300, 16, true).op);  // wide enough for two threads
    });

const Test wrong_size("selective_scan: a state of the wrong size is refused", [] {
  Scan scan(8, 16, true);
  scan.op.pending -= 1;
  Machine machine(scan.op);
  expect_error(Code::invalid_program, [&] { Sequence{&machine}.prefill({1}); });
});

}  // namespace
}  // namespace crosscurrent::test
