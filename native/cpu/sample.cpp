// sample: one token a row, by the row's options
//
// 1 logits + bias, then penalties over the history: repetition (l > 0 ? l / r : l r), presence (l - p) and
// frequency
//   (l - f count), each for tokens that occur in it.
// 2 Temperature 0: the largest logit, ties to the lower id.
// 3 Else weights exp((l - max) / temperature), in falling order of logits, ties to the lower id:
//   top_k keeps the first k; top_p the fewest of those whose share of what top_k kept reaches p; min_p those
//   of at least p times the largest. Of the kept ones the first whose running sum exceeds u times their sum
//   is taken, u from Philox.
// Only as much of the order is found as the answer needs.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../error.h"
#include "../ops.gen.h"
#include "../philox.h"
#include "isa.h"
#include "sample_levels.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__x86_64__)
constexpr IsaTables<SampleKernels> kKernels{
    .v2 = &kSampleV2, .avx2 = &kSampleAvx2, .avx512_vnni = &kSampleAvx512Vnni};
#else
constexpr IsaTables<SampleKernels> kKernels{.v2 = &kSampleV2};
#endif

struct Candidate {
  float logit;
  int32_t id;
};

// Heap order: the top is the largest logit, the lower id among equals.
bool below(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.id > b.id;
}

// Logits in falling order, found band by band: a band is what lies within a bound of the largest, beyond the
// last one.
class Falling {
 public:
  // `ids` has room for all.
  Falling(const SampleKernels& kernels, const float* logits, int64_t count, float max, float temperature,
          int32_t* ids)
      : kernels_(kernels), logits_(logits), count_(count), max_(max), band_(2 * temperature), ids_(ids) {}

  // False when all have been given.
  bool next(Candidate& candidate) {
    while (heap_.empty())
      if (!open_band()) return false;
    std::pop_heap(heap_.begin(), heap_.end(), below);
    candidate = heap_.back();
    heap_.pop_back();
    return true;
  }

 private:
  bool open_band() {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr int kBands = 5;  // widths doubling, the last is all the rest
    if (given_ == count_ || bands_ == kBands) return false;
    const float low = bands_ < kBands - 1 ? max_ - band_ : -kInfinity;
    band_ *= 2;
    ++bands_;
    const int64_t found = kernels_.collect(logits_, count_, low, high_, ids_);
    high_ = std::min(low, high_);
    given_ += found;
    for (int64_t i = 0; i < found; ++i) heap_.push_back({logits_[ids_[i]], ids_[i]});
    std::make_heap(heap_.begin(), heap_.end(), below);
    return true;
  }

  const SampleKernels& kernels_;
  const float* logits_;
  int64_t count_;
  float max_, band_, high_ = std::numeric_limits<float>::infinity();
  int bands_ = 0;
  int64_t given_ = 0;
  int32_t* ids_;
  std::vector<Candidate> heap_;
};

constexpr int32_t kNoToken = -1;

class Sampler {
 public:
  Sampler(const Sample& a, const Step& step, const SampleKernels& kernels)
      : a_(a), step_(step), kernels_(kernels) {}

  int32_t choose(int64_t row) {
    const SampleOptions& options = step_.sampling[static_cast<size_t>(row)];
    const float* logits = adjusted(row, options);
    if (options.temperature == 0) {
      float max;
      const int64_t id = kernels_.first_largest(logits, a_.vocab, &max);
      return std::isfinite(max) ? static_cast<int32_t>(id) : kNoToken;
    }
    const float max = kernels_.max(logits, a_.vocab);
    // one hopeless row must not end the step of its mates
    if (!std::isfinite(max)) return kNoToken;
    return draw(logits, max, options);
  }

 private:
  // The row itself, or a copy with bias and penalties.
  const float* adjusted(int64_t row, const SampleOptions& options) {
    const auto history = step_.history.subspan(step_.history_first[row],
                                               step_.history_first[row + 1] - step_.history_first[row]);
    const int32_t bias_begin = step_.bias_first[row], bias_end = step_.bias_first[row + 1];
    const bool penalizes =
        !history.empty() &&
        (options.repetition_penalty != 1 || options.presence_penalty != 0 || options.frequency_penalty != 0);
    const float* logits = a_.logits.f32(row);
    if (!penalizes && bias_begin == bias_end) return logits;
    logits_.assign(logits, logits + a_.vocab);
    for (int32_t i = bias_begin; i < bias_end; ++i)
      logits_[checked(step_.bias_ids[i])] += step_.bias_values[i];
    if (penalizes) {
      counts_.assign(static_cast<size_t>(a_.vocab), 0);
      for (const int32_t id : history) ++counts_[checked(id)];
      for (const int32_t id : history) {
        const int32_t count = std::exchange(counts_[static_cast<size_t>(id)], 0);  // each token once
        if (count > 0) penalize(logits_[static_cast<size_t>(id)], count, options);
      }
    }
    return logits_.data();
  }

  static void penalize(float& logit, int32_t count, const SampleOptions& options) {
    if (options.repetition_penalty != 1)
      logit = logit > 0 ? logit / options.repetition_penalty : logit * options.repetition_penalty;
    logit -= options.presence_penalty + options.frequency_penalty * static_cast<float>(count);
  }

  size_t checked(int32_t id) const {
    if (id < 0 || id >= a_.vocab)
      throw Error(Code::token_out_of_range, "sample: token id", "0.." + std::to_string(a_.vocab - 1),
                  std::to_string(id));
    return static_cast<size_t>(id);
  }

  int32_t draw(const float* logits, float max, const SampleOptions& options) {
    ids_.resize(static_cast<size_t>(a_.vocab));
    Falling falling(kernels_, logits, a_.vocab, max, options.temperature, ids_.data());
    const bool has_top_k = options.top_k > 0 && options.top_k < a_.vocab;
    const bool has_top_p = options.top_p < 1, has_min_p = options.min_p > 0;
    const double u = philox_uniform(options.seed_low, options.seed_high, options.position);
    double total = has_top_k ? 0 : kernels_.total(logits, a_.vocab, max, options.temperature);
    kept_.clear();
    const auto take = [&](int64_t limit,
                          double enough) {  // until the running sum of weights reaches `enough`
      Candidate candidate;
      double sum = kept_.empty() ? 0 : kept_.back().sum;
      while (static_cast<int64_t>(kept_.size()) < limit && sum < enough && falling.next(candidate)) {
        const float weight = kernels_.weight(candidate.logit, max, options.temperature);
        if (has_min_p && !kept_.empty() && weight < options.min_p && !has_top_k) return;
        sum += weight;
        kept_.push_back({candidate.id, weight, sum});
      }
    };
    constexpr double kAll = std::numeric_limits<double>::infinity();
    if (has_top_k) {
      take(options.top_k, kAll);
      total = kept_.back().sum;
    }
    if (has_top_p || has_min_p) {
      const double enough = has_top_p ? options.top_p * total : kAll;
      if (has_top_k)
        shorten(enough, options.min_p);
      else
        take(a_.vocab, enough);
      if (kept_.empty()) take(1, kAll);  // top_p of 0
      total = kept_.back().sum;
    }
    // Without a filter the order is followed just to the chosen one.
    if (!has_top_k && !has_top_p && !has_min_p) take(a_.vocab, std::nextafter(u * total, kAll));
    for (const Kept& kept : kept_)
      if (kept.sum > u * total || kept.sum == kept_.back().sum)
        return kept.id;  // the last of any weight, should rounding pass them all
    return kept_.back().id;
  }

  // Drops what top_p and min_p refuse from what top_k kept.
  void shorten(double enough, float min_p) {
    size_t count = 0;
    while (count < kept_.size() &&
           (count == 0 || (kept_[count - 1].sum < enough && kept_[count].weight >= min_p)))
      ++count;
    kept_.resize(count);
  }

  struct Kept {
    int32_t id;
    float weight;
    double sum;  // of the weights up to and with this one
  };

  const Sample& a_;
  const Step& step_;
  const SampleKernels& kernels_;
  std::vector<float> logits_;
  std::vector<int32_t> counts_, ids_;
  std::vector<Kept> kept_;
};

}  // namespace

const SampleKernels& sample_kernels() { return kKernels.active(); }

void sample(const Sample& a, Context& context) {
  if (static_cast<int64_t>(context.step.sampling.size()) != a.rows)
    throw Error(Code::invalid_argument, "sample: options", std::to_string(a.rows) + " rows",
                std::to_string(context.step.sampling.size()));
  const SampleKernels& kernels = sample_kernels();
  for_ranges(context, a.rows, 4 * a.vocab, [&](int64_t begin, int64_t end) {
    Sampler sampler(a, context.step, kernels);
    for (int64_t row = begin; row < end; ++row) *a.ids.i32(row) = sampler.choose(row);
  });
}

}  // namespace crosscurrent::cpu
