#include <algorithm>
#include <cmath>
#include <limits>

#include "native/ops.gen.h"
#include "op_buffers.h"
#include "step_builder.h"

namespace crosscurrent::cpu {
void top_probabilities(const TopProbabilities& a, Context& context);
}

namespace crosscurrent::test {
namespace {

std::vector<float> top_of(Rows& logits, int top_k, float temperature, int threads = 1) {
  const auto rows = static_cast<size_t>(logits.rows());
  RowInput row;
  row.options.temperature = temperature;
  const BuiltStep built =
      build_step(StepClass::decode, {{.ids = {0}}}, kTestLimits, std::vector<RowInput>(rows, row), true);
  Rows y(logits.rows(), 2 * top_k);
  TopProbabilities a{};
  a.logits = logits.tensor();
  a.y = y.tensor();
  a.top_k = top_k;
  a.rows = logits.rows();
  a.vocab = logits.columns();
  cpu::Workspace workspace;
  cpu::Context context{built.step, workspace, threads, cpu::Precision::exact};
  cpu::top_probabilities(a, context);
  y.check_sentinels("top_probabilities");
  std::vector<float> out;
  for (int64_t i = 0; i < y.rows(); ++i)
    for (int64_t j = 0; j < y.columns(); ++j) out.push_back(y.at(i, j));
  return out;
}

const Test reference("top_probabilities: what a full sort in f64 gives", [] {
  at_every_level([](const std::string& level) {
    for (const int vocab : {1, 7, 511, 512, 513, 5000}) {
      for (const float temperature : {0.0f, 0.5f, 1.0f, 3.0f}) {
        const int rows = 3, top_k = 5;
        Rows logits(rows, vocab);
        logits.fill(static_cast<uint64_t>(vocab), 6);
        if (vocab > 40) logits.at(1, 40) = logits.at(1, 3) = 9;  // a tie
        const std::vector<float> got = top_of(logits, top_k, temperature, 2);
        for (int row = 0; row < rows; ++row) {
          std::vector<int> order(static_cast<size_t>(vocab));
          for (int i = 0; i < vocab; ++i) order[static_cast<size_t>(i)] = i;
          std::stable_sort(order.begin(), order.end(),
                           [&](int a, int b) { return logits.at(row, a) > logits.at(row, b); });
          const double t = temperature == 0 ? 1 : temperature, max = logits.at(row, order[0]);
          double total = 0;
          for (const int id : order) total += std::exp((logits.at(row, id) - max) / t);
          for (int i = 0; i < top_k; ++i) {
            const std::string what =
                level + ", vocab " + std::to_string(vocab) + ", place " + std::to_string(i);
            const float* pair = &got[static_cast<size_t>(2 * (row * top_k + i))];
            if (i >= vocab) {
              expect(pair[0] == -1 && pair[1] == 0, what + ": nothing");
              continue;
            }
            const int id = order[static_cast<size_t>(i)];
            expect_equal(static_cast<int>(pair[0]), id, what);
            expect_near(pair[1], std::exp((logits.at(row, id) - max) / t) / total, 2e-6, what);
          }
        }
      }
    }
  });
});

const Test hopeless("top_probabilities: a row of NaN or infinity gives nothing, its mates what they would",
                    [] {
                      Rows logits(3, 20);
                      logits.fill(4);
                      const std::vector<float> clean = top_of(logits, 2, 1);
                      logits.at(0, 7) = std::numeric_limits<float>::quiet_NaN();
                      logits.at(2, 3) = std::numeric_limits<float>::infinity();
                      const std::vector<float> got = top_of(logits, 2, 1);
                      for (const size_t row : {0u, 2u})
                        expect(got[4 * row] == -1 && got[4 * row + 1] == 0, "nothing");
                      for (size_t i = 4; i < 8; ++i) expect(got[i] == clean[i], "the row between");
                    });

}  // namespace
}  // namespace crosscurrent::test
