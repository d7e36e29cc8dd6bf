// router: the top_k experts of each token and their weights
//
// Scores are compared before the softmax: it keeps their order, but may round two of them to one number.
#include <cmath>
#include <string>

#include "../error.h"
#include "../ops.gen.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// ids[0 … top_k) in falling order of score, their scores in `best`, ties to the lower index. A NaN is never
// moved forward, so ids are distinct and in range whatever the scores are.
template <class Score>
void choose(const Router& a, Score score, int32_t* ids, float* best) {
  int64_t count = 0;
  for (int64_t expert = 0; expert < a.experts; ++expert) {
    const float value = score(expert);
    int64_t place = count;
    while (place > 0 && value > best[place - 1]) --place;
    if (place == a.top_k) continue;
    if (count < a.top_k) ++count;
    for (int64_t i = count - 1; i > place; --i) {
      ids[i] = ids[i - 1];
      best[i] = best[i - 1];
    }
    ids[place] = static_cast<int32_t>(expert);
    best[place] = value;
  }
}

void route(const Router& a, int64_t token) {
  const float* logits = a.logits.f32(token);
  int32_t* ids = a.ids.i32(token);
  float* weights = a.weights.f32(token);
  if (a.rule == Rule::sigmoid) {
    const auto score = [&](int64_t i) { return sigmoid(logits[i]) + (a.bias ? a.bias.f32()[i] : 0.0f); };
    choose(a, score, ids, weights);
    for (int64_t k = 0; k < a.top_k; ++k) weights[k] = sigmoid(logits[ids[k]]);
  } else {
    choose(a, [&](int64_t i) { return logits[i]; }, ids, weights);
    const float largest = weights[0];
    for (int64_t k = 0; k < a.top_k; ++k) weights[k] = std::exp(weights[k] - largest);
    float total = 0;
    if (a.rule == Rule::softmax_topk)
      for (int64_t i = 0; i < a.experts; ++i) total += std::exp(logits[i] - largest);
    else
      for (int64_t k = 0; k < a.top_k; ++k) total += weights[k];
    for (int64_t k = 0; k < a.top_k; ++k) weights[k] /= total;
  }
  float sum = a.rule == Rule::sigmoid ? 1e-20f : 0.0f;
  for (int64_t k = 0; k < a.top_k; ++k) sum += weights[k];
  for (int64_t k = 0; k < a.top_k; ++k)
    weights[k] = (a.renormalize ? weights[k] / sum : weights[k]) * a.scale;
}

}  // namespace

void router(const Router& a, Context& context) {
  if (a.top_k < 1 || a.top_k > a.experts)
    throw Error(Code::invalid_program, "router top_k", "1.." + std::to_string(a.experts),
                std::to_string(a.top_k));
  for_ranges(context, a.t, 8 * a.experts, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) route(a, token);
  });
}

}  // namespace crosscurrent::cpu
