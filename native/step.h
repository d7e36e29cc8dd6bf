// The run-time inputs of one step: `t` tokens of `seqs` sequences, ragged. Format of the words:
// docs/architecture.md, "Step".
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace crosscurrent {

// prefill commits every token of the step; decode keeps the tokens' inputs pending until the next step names
// the accepted ones.
enum class StepClass : int32_t { prefill = 0, decode = 1 };

// How one row's token is chosen; see the op `sample`.
struct SampleOptions {
  float temperature;         // 0: greedy
  int32_t top_k;             // 0: off
  float top_p;               // 1: off
  float min_p;               // 0: off
  float repetition_penalty;  // 1: off
  float presence_penalty;
  float frequency_penalty;
  uint32_t seed_low, seed_high;
  int32_t position;  // of the token to be chosen
};
inline constexpr int kSampleWords = 10;

struct Step {
  StepClass kind = StepClass::prefill;
  int32_t t = 0, seqs = 0, rows = 0;
  int32_t max_pages = 0;
  std::span<const int32_t> ids;       // [t]
  std::span<const int32_t> position;  // [t]
  std::span<const int32_t>
      parent;                     // [t] index in the step of the token's parent, -1: the last committed token
  std::vector<int32_t> sequence;  // [t]
  std::span<const int32_t> first;  // [seqs + 1]
  std::span<const int32_t> slot;   // [seqs]
  std::span<const int32_t>
      length;  // [seqs] committed tokens before the accepted ones are applied; 0: a new sequence
  std::span<const int32_t> accepted_first;  // [seqs + 1]
  std::span<const int32_t> accepted;        // pending nodes to commit, in order
  std::span<const int32_t> pages;           // [seqs, max_pages]
  std::span<const int32_t> row_index;       // [rows]
  std::vector<SampleOptions> sampling;      // [rows], empty when nothing is sampled
  std::span<const int32_t> history_first;   // [rows + 1]
  std::span<const int32_t> history;
  std::span<const int32_t> bias_first;  // [rows + 1]
  std::span<const int32_t> bias_ids;
  std::span<const float> bias_values;

  int32_t tokens_of(int seq) const { return first[seq + 1] - first[seq]; }
  int32_t accepted_count(int seq) const { return accepted_first[seq + 1] - accepted_first[seq]; }
  // Committed tokens once the accepted ones are applied: where this step's first token goes.
  int32_t base(int seq) const { return length[seq] + accepted_count(seq); }
};

// What a step may refer to; everything in it is checked against these.
struct StepLimits {
  int32_t t, seqs, rows;
  int32_t slots, pages, page_tokens, window, vocab;
};

// Reads and checks the words of a step. The spans point into `words`, which must outlive the result.
// Throws invalid_argument, token_out_of_range or context_overflow.
Step parse_step(std::span<const int32_t> words, const StepLimits& limits);

}  // namespace crosscurrent
