// Steps for kernel tests: fills the words of a step and parses them, so tests see what the engine's callers
// see.
//
//   BuiltStep built = build_step(StepClass::decode, {{.slot = 0, .length = 7, .ids = {5, 6, 9}, .parents =
//   {-1, 0, 0}}}); Workspace workspace; Context context{built.step, workspace, 1, Precision::exact};
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "native/step.h"

namespace crosscurrent::test {

struct SequenceInput {
  int32_t slot = 0;
  int32_t length = 0;                 // committed tokens before `accepted` are applied
  std::vector<int32_t> ids;           // the tokens of the step
  std::vector<int32_t> parents = {};  // numbered within the sequence; empty: a chain
  std::vector<int32_t> accepted = {};
  std::vector<int32_t> pages = {};
};

struct RowInput {
  int32_t index = 0;  // token of the step
  SampleOptions options = {0, 0, 1, 0, 1, 0, 0, 0, 0, 0};
  std::vector<int32_t> history = {};
  std::vector<int32_t> bias_ids = {};
  std::vector<float> bias_values = {};
};

// Move-only: the spans of `step` point into `words`.
struct BuiltStep {
  std::vector<int32_t> words;
  Step step;
  BuiltStep() = default;
  BuiltStep(BuiltStep&&) = default;
  BuiltStep& operator=(BuiltStep&&) = default;
};

inline constexpr StepLimits kTestLimits = {.t = 4096,
                                           .seqs = 256,
                                           .rows = 4096,
                                           .slots = 256,
                                           .pages = 4096,
                                           .page_tokens = 16,
                                           .window = 64,
                                           .vocab = 1 << 18};

inline std::vector<int32_t> step_words(StepClass kind, const std::vector<SequenceInput>& sequences,
                                       const std::vector<RowInput>& rows, bool samples) {
  std::vector<int32_t> ids, position, parent, first = {0}, slot, length, accepted_first = {0}, accepted,
                                              pages;
  size_t max_pages = 0;
  for (const SequenceInput& sequence : sequences) max_pages = std::max(max_pages, sequence.pages.size());
  for (const SequenceInput& sequence : sequences) {
    const int32_t base = sequence.length + static_cast<int32_t>(sequence.accepted.size());
    const int32_t start = first.back();
    for (size_t i = 0; i < sequence.ids.size(); ++i) {
      const int32_t local = sequence.parents.empty() ? static_cast<int32_t>(i) - 1 : sequence.parents[i];
      ids.push_back(sequence.ids[i]);
      parent.push_back(local < 0 ? -1 : start + local);
      position.push_back(local < 0 ? base : position[static_cast<size_t>(start + local)] + 1);
    }
    first.push_back(static_cast<int32_t>(ids.size()));
    slot.push_back(sequence.slot);
    length.push_back(sequence.length);
    accepted.insert(accepted.end(), sequence.accepted.begin(), sequence.accepted.end());
    accepted_first.push_back(static_cast<int32_t>(accepted.size()));
    for (size_t i = 0; i < max_pages; ++i)
      pages.push_back(i < sequence.pages.size() ? sequence.pages[i] : -1);
  }
  std::vector<int32_t> index, sampling, history_first = {0}, history, bias_first = {0}, bias_ids, bias_values;
  for (const RowInput& row : rows) {
    index.push_back(row.index);
    int32_t options[kSampleWords];
    std::memcpy(options, &row.options, sizeof options);
    sampling.insert(sampling.end(), options, options + kSampleWords);
    history.insert(history.end(), row.history.begin(), row.history.end());
    history_first.push_back(static_cast<int32_t>(history.size()));
    bias_ids.insert(bias_ids.end(), row.bias_ids.begin(), row.bias_ids.end());
    for (const float value : row.bias_values) bias_values.push_back(std::bit_cast<int32_t>(value));
    bias_first.push_back(static_cast<int32_t>(bias_ids.size()));
  }
  std::vector<int32_t> words = {static_cast<int32_t>(kind),
                                static_cast<int32_t>(ids.size()),
                                static_cast<int32_t>(sequences.size()),
                                static_cast<int32_t>(rows.size()),
                                static_cast<int32_t>(max_pages),
                                samples ? static_cast<int32_t>(history.size()) : 0,
                                samples ? static_cast<int32_t>(bias_ids.size()) : 0,
                                samples ? 1 : 0};
  for (const auto& part :
       {ids, position, parent, first, slot, length, accepted_first, accepted, pages, index})
    words.insert(words.end(), part.begin(), part.end());
  if (samples)
    for (const auto& part : {sampling, history_first, history, bias_first, bias_ids, bias_values})
      words.insert(words.end(), part.begin(), part.end());
  return words;
}

// `limits.page_tokens` = 0 where no cache is involved: then sequences need no pages.
inline BuiltStep build_step(StepClass kind, const std::vector<SequenceInput>& sequences,
                            StepLimits limits = kTestLimits, const std::vector<RowInput>& rows = {},
                            bool samples = false) {
  bool has_pages = false;
  for (const SequenceInput& sequence : sequences) has_pages = has_pages || !sequence.pages.empty();
  if (!has_pages) limits.page_tokens = 0;
  BuiltStep built;
  built.words = step_words(kind, sequences, rows, samples);
  built.step = parse_step(built.words, limits);
  return built;
}

}  // namespace crosscurrent::test
