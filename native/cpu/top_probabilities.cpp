// top_probabilities: the likeliest tokens of a row and what softmax(logits / temperature) gives them
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../error.h"
#include "../ops.gen.h"
#include "sample_levels.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

struct Candidate {
  float logit;
  int32_t id;
};

bool above(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The likeliest of a row, in order. A block whose largest logit is below all of a full list is passed over.
void list_top(const SampleKernels& kernels, const float* logits, int64_t count, size_t most,
              std::vector<Candidate>& top) {
  constexpr int64_t kBlock = 512;
  top.clear();
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t end = std::min(start + kBlock, count);
    if (top.size() == most && kernels.max(logits + start, end - start) <= top.front().logit) continue;
    for (int64_t id = start; id < end; ++id) {
      const Candidate candidate{logits[id], static_cast<int32_t>(id)};
      if (top.size() == most) {
        if (candidate.logit <= top.front().logit) continue;
        std::pop_heap(top.begin(), top.end(), above);
        top.pop_back();
      }
      top.push_back(candidate);
      std::push_heap(top.begin(), top.end(), above);
    }
  }
  std::sort_heap(top.begin(), top.end(), above);
}

}  // namespace

void top_probabilities(const TopProbabilities& a, Context& context) {
  if (a.top_k < 1)
    throw Error(Code::invalid_program, "top_probabilities: top_k", "1 or more", std::to_string(a.top_k));
  const auto& sampling = context.step.sampling;
  if (!sampling.empty() && static_cast<int64_t>(sampling.size()) != a.rows)
    throw Error(Code::invalid_argument, "top_probabilities: options", std::to_string(a.rows) + " rows",
                std::to_string(sampling.size()));
  const SampleKernels& kernels = sample_kernels();
  const auto most = static_cast<size_t>(std::min<int64_t>(a.top_k, a.vocab));
  for_ranges(context, a.rows, 4 * a.vocab, [&](int64_t begin, int64_t end) {
    std::vector<Candidate> top;
    for (int64_t row = begin; row < end; ++row) {
      const float* logits = a.logits.f32(row);
      const float max = kernels.max(logits, a.vocab);
      float* y = a.y.f32(row);
      for (int64_t i = 0; i < a.top_k; ++i) y[2 * i] = -1, y[2 * i + 1] = 0;
      if (!std::isfinite(max)) continue;
      const float given = sampling.empty() ? 0 : sampling[static_cast<size_t>(row)].temperature;
      const float temperature = given == 0 ? 1 : given;
      const double total = kernels.total(logits, a.vocab, max, temperature);
      list_top(kernels, logits, a.vocab, most, top);
      for (size_t i = 0; i < top.size(); ++i) {
        y[2 * i] = static_cast<float>(top[i].id);
        y[2 * i + 1] = static_cast<float>(kernels.weight(top[i].logit, max, temperature) / total);
      }
    }
  });
}

}  // namespace crosscurrent::cpu
