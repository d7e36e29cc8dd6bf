#include "step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "error.h"

namespace crosscurrent {
namespace {

constexpr int kHeaderWords = 8;

[[noreturn]] void wrong(const std::string& operand, const std::string& expected, int64_t got) {
  throw Error(Code::invalid_argument, "step: " + operand, expected, std::to_string(got));
}

class Reader {
 public:
  explicit Reader(std::span<const int32_t> words) : words_(words) {}

  std::span<const int32_t> take(int64_t count, const char* operand) {
    if (count < 0 || count > static_cast<int64_t>(words_.size() - at_))
      wrong(operand, std::to_string(count) + " words", static_cast<int64_t>(words_.size() - at_));
    const auto part = words_.subspan(at_, static_cast<size_t>(count));
    at_ += static_cast<size_t>(count);
    return part;
  }
  void finish() const {
    if (at_ != words_.size())
      wrong("size", std::to_string(at_) + " words", static_cast<int64_t>(words_.size()));
  }

 private:
  std::span<const int32_t> words_;
  size_t at_ = 0;
};

void check_range(std::span<const int32_t> values, int64_t low, int64_t end, const char* operand) {
  for (const int32_t value : values)
    if (value < low || value >= end)
      wrong(operand, std::to_string(low) + " <= value < " + std::to_string(end), value);
}

// `first` splits [0, total) into rising ranges.
void check_ranges(std::span<const int32_t> first, int64_t total, const char* operand) {
  if (first.front() != 0) wrong(operand, "0 first", first.front());
  for (size_t i = 1; i < first.size(); ++i)
    if (first[i] < first[i - 1]) wrong(operand, "rising values", first[i]);
  if (first.back() != total) wrong(operand, std::to_string(total) + " last", first.back());
}

void check_sequences(Step& step, const StepLimits& limits) {
  const int64_t capacity = static_cast<int64_t>(step.max_pages) * limits.page_tokens;
  std::vector<bool> slot_used(static_cast<size_t>(limits.slots));
  step.sequence.resize(static_cast<size_t>(step.t));
  for (int seq = 0; seq < step.seqs; ++seq) {
    const int32_t tokens = step.tokens_of(seq);
    if (tokens < 1) wrong("first", "at least one token a sequence", tokens);
    if (step.kind == StepClass::decode && tokens > limits.window)
      wrong("first", "at most " + std::to_string(limits.window) + " nodes a sequence in a decode step",
            tokens);
    if (step.length[seq] < 0) wrong("length", "0 or more", step.length[seq]);
    if (step.accepted_count(seq) > limits.window)
      wrong("accepted", "at most " + std::to_string(limits.window), step.accepted_count(seq));
    if (slot_used[static_cast<size_t>(step.slot[seq])]) wrong("slot", "each slot once", step.slot[seq]);
    slot_used[static_cast<size_t>(step.slot[seq])] = true;
    int32_t previous = -1;
    for (int i = step.accepted_first[seq]; i < step.accepted_first[seq + 1]; ++i) {
      if (step.accepted[i] <= previous || step.accepted[i] >= limits.window)
        wrong("accepted", "rising node numbers below " + std::to_string(limits.window), step.accepted[i]);
      previous = step.accepted[i];
    }
    const int64_t need = static_cast<int64_t>(step.base(seq)) + tokens;
    // pending rows of the last step lie after `length` too
    const int64_t pending_end = static_cast<int64_t>(step.length[seq]) + previous + 1;
    if (limits.page_tokens > 0 && std::max(need, pending_end) > capacity)
      throw Error(Code::context_overflow, "step: pages of sequence " + std::to_string(seq),
                  "room for " + std::to_string(std::max(need, pending_end)) + " tokens",
                  std::to_string(capacity));
    if (limits.page_tokens > 0) {
      const int64_t used = (std::max(need, pending_end) + limits.page_tokens - 1) / limits.page_tokens;
      const size_t start = static_cast<size_t>(seq) * static_cast<size_t>(step.max_pages);
      check_range(step.pages.subspan(start, static_cast<size_t>(used)), 0, limits.pages, "pages");
    }
    for (int i = step.first[seq]; i < step.first[seq + 1]; ++i) {
      const int32_t parent = step.parent[i];
      if (parent != -1 && (parent < step.first[seq] || parent >= i))
        wrong("parent", "-1 or an earlier token of the sequence", parent);
      if (step.kind == StepClass::prefill && parent != (i == step.first[seq] ? -1 : i - 1))
        wrong("parent", "a chain in a prefill step", parent);
      const int32_t expected = parent == -1 ? step.base(seq) : step.position[parent] + 1;
      if (step.position[i] != expected) wrong("position", std::to_string(expected), step.position[i]);
      step.sequence[static_cast<size_t>(i)] = seq;
    }
  }
}

void read_sampling(Reader& reader, Step& step, int32_t history, int32_t biases, const StepLimits& limits) {
  const auto words = reader.take(static_cast<int64_t>(step.rows) * kSampleWords, "sampling");
  step.sampling.resize(static_cast<size_t>(step.rows));
  static_assert(sizeof(SampleOptions) == kSampleWords * sizeof(int32_t));
  if (!words.empty()) std::memcpy(step.sampling.data(), words.data(), words.size_bytes());
  step.history_first = reader.take(step.rows + 1, "history_first");
  step.history = reader.take(history, "history");
  step.bias_first = reader.take(step.rows + 1, "bias_first");
  step.bias_ids = reader.take(biases, "bias_ids");
  const auto values = reader.take(biases, "bias_values");
  step.bias_values = {reinterpret_cast<const float*>(values.data()), values.size()};
  check_ranges(step.history_first, history, "history_first");
  check_ranges(step.bias_first, biases, "bias_first");
  check_range(step.history, 0, limits.vocab, "history");
  check_range(step.bias_ids, 0, limits.vocab, "bias_ids");
  for (const float value : step.bias_values)
    if (std::isnan(value) || value > std::numeric_limits<float>::max())
      throw Error(Code::invalid_argument, "step: bias_values", "numbers or -infinity", std::to_string(value));
  for (const SampleOptions& options : step.sampling) {
    const bool finite = std::isfinite(options.temperature) && std::isfinite(options.top_p) &&
                        std::isfinite(options.min_p) && std::isfinite(options.repetition_penalty) &&
                        std::isfinite(options.presence_penalty) && std::isfinite(options.frequency_penalty);
    if (!finite || options.temperature < 0 || options.top_k < 0 || options.repetition_penalty <= 0)
      throw Error(Code::invalid_argument, "step: sampling",
                  "finite options, temperature >= 0, top_k >= 0, repetition penalty > 0", "others");
  }
}

}  // namespace

Step parse_step(std::span<const int32_t> words, const StepLimits& limits) {
  Reader reader(words);
  const auto header = reader.take(kHeaderWords, "header");
  Step step;
  if (header[0] != 0 && header[0] != 1) wrong("class", "0 (prefill) or 1 (decode)", header[0]);
  step.kind = static_cast<StepClass>(header[0]);
  step.t = header[1];
  step.seqs = header[2];
  step.rows = header[3];
  step.max_pages = header[4];
  const int32_t history = header[5], biases = header[6];
  const bool samples = header[7] != 0;
  if (step.t < 1 || step.t > limits.t) wrong("t", "1.." + std::to_string(limits.t), step.t);
  if (step.seqs < 1 || step.seqs > limits.seqs) wrong("seqs", "1.." + std::to_string(limits.seqs), step.seqs);
  if (step.rows < 0 || step.rows > limits.rows) wrong("rows", "0.." + std::to_string(limits.rows), step.rows);
  if (step.max_pages < 0 || step.max_pages > limits.pages)
    wrong("max_pages", "0.." + std::to_string(limits.pages), step.max_pages);
  step.ids = reader.take(step.t, "ids");
  step.position = reader.take(step.t, "position");
  step.parent = reader.take(step.t, "parent");
  step.first = reader.take(step.seqs + 1, "first");
  step.slot = reader.take(step.seqs, "slot");
  step.length = reader.take(step.seqs, "length");
  step.accepted_first = reader.take(step.seqs + 1, "accepted_first");
  if (step.accepted_first.back() < 0) wrong("accepted_first", "0 or more", step.accepted_first.back());
  step.accepted = reader.take(step.accepted_first.back(), "accepted");
  step.pages = reader.take(static_cast<int64_t>(step.seqs) * step.max_pages, "pages");
  step.row_index = reader.take(step.rows, "rows");

  for (const int32_t id : step.ids)
    if (id < 0 || id >= limits.vocab)
      throw Error(Code::token_out_of_range, "token id", "0.." + std::to_string(limits.vocab - 1),
                  std::to_string(id));
  check_ranges(step.first, step.t, "first");
  check_ranges(step.accepted_first, step.accepted_first.back(), "accepted_first");
  check_range(step.slot, 0, limits.slots, "slot");
  check_range(step.row_index, 0, step.t, "rows");
  check_sequences(step, limits);
  if (samples) read_sampling(reader, step, history, biases, limits);
  reader.finish();
  return step;
}

}  // namespace crosscurrent
