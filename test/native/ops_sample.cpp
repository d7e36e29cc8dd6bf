#include <limits>

#include "native/ops.gen.h"
#include "native/philox.h"
#include "op_buffers.h"
#include "step_builder.h"

namespace crosscurrent::cpu {
void sample(const Sample& a, Context& context);
}

namespace crosscurrent::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SampleOptions options(float temperature, int32_t position = 0) {
  return {temperature, 0, 1, 0, 1, 0, 0, 7, 9, position};
}

// One token a row of `logits`.
std::vector<int32_t> choose(Rows& logits, std::vector<RowInput> rows, int threads = 1) {
  const BuiltStep built = build_step(StepClass::decode, {{.ids = {0}}}, kTestLimits, rows, true);
  std::vector<int32_t> ids(rows.size() + 1, -5);  // and a sentinel
  Sample a{};
  a.logits = logits.tensor();
  a.ids = tensor_of(ids);
  a.rows = static_cast<int64_t>(rows.size());
  a.vocab = logits.columns();
  cpu::Workspace workspace;
  cpu::Context context{built.step, workspace, threads, cpu::Precision::exact};
  cpu::sample(a, context);
  expect_equal(ids.back(), -5, "the word behind the ids");
  ids.pop_back();
  return ids;
}

int32_t choose_one(Rows& logits, RowInput row) { return choose(logits, {std::move(row)})[0]; }

Rows row_of(const std::vector<float>& values) {
  Rows logits(1, static_cast<int64_t>(values.size()));
  for (size_t i = 0; i < values.size(); ++i) logits.at(0, static_cast<int64_t>(i)) = values[i];
  return logits;
}

// Straight from the op's definition, in f64, by a full sort: what each token's probability is.
std::vector<double> distribution(std::vector<double> logits, const SampleOptions& o) {
  std::vector<int> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const double max = logits[static_cast<size_t>(order[0])];
  std::vector<double> p(logits.size(), 0);
  size_t kept = o.top_k > 0 ? std::min(order.size(), static_cast<size_t>(o.top_k)) : order.size();
  double total = 0;
  for (size_t i = 0; i < kept; ++i)
    total += std::exp((logits[static_cast<size_t>(order[i])] - max) / o.temperature);
  double sum = 0, kept_sum = 0;
  for (size_t i = 0; i < kept; ++i) {
    const double weight = std::exp((logits[static_cast<size_t>(order[i])] - max) / o.temperature);
    const bool refused = (o.top_p < 1 && sum / total >= o.top_p) || weight < o.min_p;
    if (i > 0 && refused) break;
    p[static_cast<size_t>(order[i])] = weight;
    sum += weight;
    kept_sum += weight;
  }
  for (double& value : p) value /= kept_sum;
  return p;
}

constexpr bool same(Philox a, Philox b) {
  return a.words[0] == b.words[0] && a.words[1] == b.words[1] && a.words[2] == b.words[2] &&
         a.words[3] == b.words[3];
}

const Test known_answers("philox: the known answers of Salmon et al. (Random123, kat_vectors)", [] {
  constexpr uint32_t kOnes = 0xffffffff;
  expect(same(philox4x32({{0, 0, 0, 0}}, 0, 0), {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}), "zeros");
  expect(same(philox4x32({{kOnes, kOnes, kOnes, kOnes}}, kOnes, kOnes),
              {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}),
         "ones");
  expect(same(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0),
              {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}),
         "digits of pi");
});

const Test greedy("sample: temperature 0 takes the largest logit, the lower id among equals", [] {
  at_every_level([](const std::string& level) {
    for (const int vocab : {1, 7, 8, 9, 1000}) {
      Rows logits(1, vocab);
      logits.fill(static_cast<uint64_t>(vocab));
      const int best = vocab * 2 / 3;
      logits.at(0, best) = 2;
      expect_equal(choose_one(logits, {}), best, level + ", largest of " + std::to_string(vocab));
      logits.at(0, vocab - 1) = 2;
      expect_equal(choose_one(logits, {}), best, level + ", lower of two");
    }
    Rows banned = row_of({-kInfinity, -3e38f, -kInfinity});
    expect_equal(choose_one(banned, {}), 1, level + ", the only one");
  });
});

const Test adjustments("sample: bias, then repetition, presence and frequency penalties", [] {
  Rows logits = row_of({3.0f, 2.5f, -1.0f, 2.0f});
  const auto with = [](auto change) {
    RowInput row;
    change(row);
    return row;
  };
  expect_equal(
      choose_one(logits, with([](RowInput& r) { r.bias_ids = {2, 2}, r.bias_values = {2.5f, 2.0f}; })), 2,
      "two biases of one token add");
  expect_equal(choose_one(logits, with([](RowInput& r) { r.bias_ids = {0}, r.bias_values = {-kInfinity}; })),
               1, "a ban");
  expect_equal(choose_one(logits, with([](RowInput& r) {
                            r.options.repetition_penalty = 1.3f, r.history = {0, 0, 0};
                          })),
               1, "3 / 1.3, once");
  expect_equal(choose_one(logits, with([](RowInput& r) {
                            r.options.repetition_penalty = 1.19f, r.history = {0, 0, 0};
                          })),
               0, "3 / 1.19 > 2.5");
  Rows negative = row_of({-1.0f, -1.5f});
  expect_equal(
      choose_one(negative, with([](RowInput& r) { r.options.repetition_penalty = 1.6f, r.history = {0}; })),
      1, "-1 * 1.6");
  expect_equal(
      choose_one(logits, with([](RowInput& r) { r.options.presence_penalty = 0.6f, r.history = {0, 0}; })), 1,
      "3 - 0.6");
  expect_equal(
      choose_one(logits, with([](RowInput& r) { r.options.presence_penalty = 0.4f, r.history = {0, 0}; })), 0,
      "3 - 0.4, once");
  expect_equal(choose_one(logits, with([](RowInput& r) {
                            r.options.frequency_penalty = 0.3f, r.history = {0, 1, 0};
                          })),
               0, "3 - 0.6 > 2.5 - 0.3");
  expect_equal(choose_one(logits, with([](RowInput& r) {
                            r.options.frequency_penalty = 0.3f, r.history = {0, 3, 0};
                          })),
               1, "3 - 0.6 < 2.5");
  expect_equal(choose_one(logits, with([](RowInput& r) {
                            r.options.repetition_penalty = 2, r.history = {2}, r.bias_ids = {2},
                            r.bias_values = {5.0f};
                          })),
               0, "the penalty sees the biased logit: (5 - 1) / 2");
  expect_equal(logits.at(0, 0), 3.0f, "the logits are not written");
  logits.check_sentinels("logits");
});

// Draws at positions 0 … n - 1 of one seed; chi-square against the definition over bins of expected count
// >= 8.
void check_distribution(Rows& logits, SampleOptions o, const std::string& what) {
  constexpr int kDraws = 3000;
  std::vector<double> values;
  for (int64_t i = 0; i < logits.columns(); ++i) values.push_back(logits.at(0, i));
  const std::vector<double> p = distribution(values, o);
  std::vector<int> counts(p.size(), 0);
  for (int i = 0; i < kDraws; ++i) {
    o.position = i;
    const int32_t id = choose_one(logits, {.options = o});
    expect(id >= 0 && id < static_cast<int32_t>(p.size()) && p[static_cast<size_t>(id)] > 0,
           what + ": token " + std::to_string(id) + " is possible");
    ++counts[static_cast<size_t>(id)];
  }
  double chi = 0, rest_expected = 0, rest = 0;
  int bins = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] * kDraws < 8) {
      rest_expected += p[i] * kDraws;
      rest += counts[i];
      continue;
    }
    chi += (counts[i] - p[i] * kDraws) * (counts[i] - p[i] * kDraws) / (p[i] * kDraws);
    ++bins;
  }
  if (rest_expected > 1) chi += (rest - rest_expected) * (rest - rest_expected) / rest_expected, ++bins;
  // mean plus 4 standard deviations of chi-square with bins - 1 degrees of freedom
  expect(chi <= bins - 1 + 4 * std::sqrt(2.0 * std::max(1, bins - 1)),
         what + ": chi-square " + std::to_string(chi) + " of " + std::to_string(bins) + " bins");
}

const Test distributions("sample: draws follow the definition: chi-square, fixed seeds", [] {
  at_every_level([](const std::string& level) {
    for (const int vocab : {5, 8, 61}) {
      Rows logits(1, vocab);
      logits.fill(static_cast<uint64_t>(vocab) + 100, 3);
      logits.at(0, 3) = logits.at(0, 1);  // a tie
      SampleOptions o = options(1);
      check_distribution(logits, o, level + ", plain");
      o.temperature = 0.6f;
      check_distribution(logits, o, level + ", temperature");
      o.top_k = 4;
      check_distribution(logits, o, level + ", top_k");
      o.top_p = 0.8f;
      check_distribution(logits, o, level + ", top_k and top_p");
      o.top_k = 0;
      check_distribution(logits, o, level + ", top_p");
      o.min_p = 0.25f;
      check_distribution(logits, o, level + ", top_p and min_p");
      o.top_p = 1;
      check_distribution(logits, o, level + ", min_p");
      o.top_k = 3;
      check_distribution(logits, o, level + ", top_k and min_p");
    }
  });
});

// Whether the running sum over the full order of the definition passes u at this token. The kernel's weights
// are f32.
bool passes(const Rows& logits, const SampleOptions& o, int32_t token, double u) {
  constexpr double kTolerance = 1e-5;
  std::vector<double> values;
  for (int64_t i = 0; i < logits.columns(); ++i) values.push_back(logits.at(0, i));
  const std::vector<double> p = distribution(values, o);
  std::vector<int> order(p.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  double sum = 0;
  for (const int id : order) {
    const double before = sum;
    sum += p[static_cast<size_t>(id)];
    if (id == token) return before <= u + kTolerance && u - kTolerance <= sum;
  }
  return false;
}

const Test inverse(
    "sample: the choice is the inverse of the running sum in falling order, at a large vocabulary", [] {
      at_every_level([](const std::string& level) {
        Rows logits(1, 49152);
        for (const float scale : {0.01f, 3.0f, 12.0f}) {
          logits.fill(static_cast<uint64_t>(scale * 100), scale);
          for (int position = 0; position < 3; ++position) {
            for (SampleOptions o : {options(0.8f), SampleOptions{1.0f, 50, 1, 0, 1, 0, 0, 7, 9, 0},
                                    SampleOptions{1.0f, 0, 0.9f, 0, 1, 0, 0, 7, 9, 0},
                                    SampleOptions{1.0f, 0, 1, 0.05f, 1, 0, 0, 7, 9, 0},
                                    SampleOptions{0.7f, 4000, 0.95f, 0.01f, 1, 0, 0, 7, 9, 0}}) {
              o.position = position;
              const double u = philox_uniform(o.seed_low, o.seed_high, position);
              const int32_t got = choose_one(logits, {.options = o});
              expect(passes(logits, o, got, u), level + ": token " + std::to_string(got) + " at u = " +
                                                    std::to_string(u) + ", scale " + std::to_string(scale));
            }
          }
        }
      });
    });

const Test batches("sample: a row's token is the same in any batch and on any number of threads", [] {
  at_every_level([](const std::string& level) {
    constexpr int kRows = 12;
    Rows logits(kRows, 5003);
    logits.fill(77, 6);
    std::vector<RowInput> rows;
    std::vector<int32_t> alone;
    for (int i = 0; i < kRows; ++i) {
      RowInput row{.options = {0.2f * static_cast<float>(i % 5), i % 3 * 20, i % 2 ? 0.9f : 1.0f,
                               i % 4 ? 0.0f : 0.02f, 1.1f, 0.1f, 0.1f, 5, static_cast<uint32_t>(i), i}};
      for (int j = 0; j < i; ++j) row.history.push_back(j * 31 % 5003);
      if (i % 2) row.bias_ids = {i}, row.bias_values = {4.0f};
      rows.push_back(row);
      Rows one(1, 5003);
      for (int c = 0; c < 5003; ++c) one.at(0, c) = logits.at(i, c);
      alone.push_back(choose_one(one, row));
    }
    for (const int threads : {1, 2}) {
      const auto got = choose(logits, rows, threads);
      for (int i = 0; i < kRows; ++i)
        expect_equal(got[static_cast<size_t>(i)], alone[static_cast<size_t>(i)],
                     level + ", row " + std::to_string(i));
    }
    logits.check_sentinels("logits");
  });
});

const Test extremes("sample: extreme options and logits", [] {
  at_every_level([](const std::string& level) {
    Rows logits = row_of({1, 5, 5, -2, 0.5f, 3, 2, 1, 0});
    const auto with = [](float temperature, int32_t top_k, float top_p, float min_p, int32_t position = 3) {
      return RowInput{.options = {temperature, top_k, top_p, min_p, 1, 0, 0, 1, 2, position}};
    };
    expect_equal(choose_one(logits, with(1, 1, 1, 0)), 1, level + ", top_k 1: the lower of two");
    expect_equal(choose_one(logits, with(1, 0, 0, 0)), 1, level + ", top_p 0");
    expect_equal(choose_one(logits, with(1, 3, 0, 0)), 1, level + ", top_k and top_p 0");
    expect(choose_one(logits, with(1, 0, 1, 2)) == 1, level + ", min_p above 1 keeps the largest");
    Rows apart = row_of({1, 5, 4, -2});
    expect_equal(choose_one(apart, with(1e-30f, 0, 1, 0)), 1, level + ", tiny temperature");
    choose_one(apart, with(1e30f, 0, 1, 0));
    Rows banned = row_of({-kInfinity, 0, -kInfinity, 1, -kInfinity});
    for (int position = 0; position < 200; ++position)
      for (const RowInput& row :
           {with(1, 0, 1, 0, position), with(1, 4, 1, 0, position), with(50, 0, 0.999f, 0, position)})
        expect(choose_one(banned, row) % 2 == 1, level + ", a banned token is never taken");
  });
});

const Test errors("sample: hopeless rows choose no token; unknown tokens are errors", [] {
  at_every_level([](const std::string&) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity})
      for (const int at : {0, 9, 10})
        for (const float temperature : {0.0f, 1.0f}) {
          Rows logits(1, 11);
          logits.fill(1).at(0, at) = bad;
          expect(choose_one(logits, {.options = options(temperature)}) == -1,
                 "no token of a row that is no numbers");
        }
    Rows all_banned = row_of({-kInfinity, -kInfinity});
    expect(choose_one(all_banned, {}) == -1, "no token where all are banned");
    Rows logits = row_of({1, 2});
    RowInput row{.bias_ids = {2}, .bias_values = {1}};
    expect_error(Code::token_out_of_range, [&] { choose_one(logits, row); });
    row = {.options = {0, 0, 1, 0, 2, 0, 0, 0, 0, 0}, .history = {5}};
    expect_error(Code::token_out_of_range, [&] { choose_one(logits, row); });
  });
});

}  // namespace
}  // namespace crosscurrent::test
