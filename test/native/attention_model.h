// One attention layer under test: a paged cache, tokens whose q, k and v follow from (token id, position),
// and an f64 reference over the logical keys of a token.
#pragma once

#include <map>
#include <numeric>

#include "native/cpu/kv_layout.h"
#include "native/ops.gen.h"
#include "op_buffers.h"
#include "step_builder.h"

namespace crosscurrent::cpu {
void flash_attention(const FlashAttention& a, Context& context);
}

namespace crosscurrent::test {

struct AttentionShape {
  int heads, kv_heads, head_dim;
  int window = 0;
  float softcap = 0;
  bool has_sinks = false;
  int page_tokens = 32;
  DType dtype = DType::f32;
  bool has_alibi = false;
  std::string show() const {
    return std::string(cpu::kv_name(dtype)) + " heads " + std::to_string(heads) + "/" +
           std::to_string(kv_heads) + " d " + std::to_string(head_dim) + " window " + std::to_string(window) +
           " page " + std::to_string(page_tokens);
  }
};

struct Token {
  int32_t id, position;
};

// A number with so many bits after its first, not below the smallest of the type: to the nearest, ties to
// even.
inline double rounded(double value, int bits, int lowest_exponent) {
  if (value == 0) return 0;
  int exponent;
  std::frexp(value, &exponent);  // value = 0.5 … 1 times 2^exponent
  const double step = std::ldexp(1.0, std::max(exponent - 1, lowest_exponent) - bits);
  return std::nearbyint(value / step) * step;
}

// A row as a cache of the type holds it, in f64.
inline std::vector<double> kept(DType dtype, const std::vector<float>& row) {
  std::vector<double> values(row.begin(), row.end());
  float most = 0;
  for (const float value : row) most = std::max(most, std::abs(value));
  const float scale = most / 127;
  for (double& value : values) {
    if (dtype == DType::f16) value = rounded(value, 10, -14);
    if (dtype == DType::bf16) value = rounded(value, 7, -126);
    // the quotient is one of f32
    if (dtype == DType::i8) value = std::nearbyint(static_cast<float>(value) / scale) * scale;
  }
  return values;
}

class AttentionModel {
 public:
  explicit AttentionModel(AttentionShape shape, int pages = 64)
      : shape_(shape),
        sinks_(1, shape.heads),
        slopes_(1, shape.heads),
        page_bytes_(shape.kv_heads *
                    cpu::KvLayout(shape.dtype, shape.head_dim, shape.page_tokens).head_bytes()),
        cache_(static_cast<size_t>(pages * page_bytes_) + 1, kGuard) {
    sinks_.fill(99);
    slopes_.fill(98);
    free_pages_.resize(static_cast<size_t>(pages));
    std::iota(free_pages_.begin(), free_pages_.end(), 0);
    Numbers numbers(5);  // pages of a sequence are not side by side
    for (size_t i = free_pages_.size() - 1; i > 0; --i)
      std::swap(free_pages_[i], free_pages_[static_cast<size_t>(numbers.below(static_cast<int32_t>(i + 1)))]);
  }

  // Rows of y, in the order of the step. Gives each sequence the pages it needs first.
  std::vector<std::vector<float>> run(StepClass kind, std::vector<SequenceInput> sequences, int threads = 1) {
    for (SequenceInput& sequence : sequences) sequence.pages = pages_for(sequence);
    StepLimits limits = kTestLimits;
    limits.page_tokens = shape_.page_tokens;
    const BuiltStep built = build_step(kind, sequences, limits);
    const int q_width = shape_.heads * shape_.head_dim, kv_width = shape_.kv_heads * shape_.head_dim;
    Rows qkv(built.step.t, q_width + 2 * kv_width), y(built.step.t, q_width);
    for (int i = 0; i < built.step.t; ++i)
      for (int c = 0; c < qkv.columns(); ++c)
        qkv.at(i, c) =
            value({built.step.ids[static_cast<size_t>(i)], built.step.position[static_cast<size_t>(i)]}, c);
    FlashAttention a{};
    a.q = qkv.slice(0, q_width);
    a.k = qkv.slice(q_width, kv_width);
    a.v = qkv.slice(q_width + kv_width, kv_width);
    if (shape_.has_sinks) a.sinks = sinks_.vector();
    if (shape_.has_alibi) a.alibi = slopes_.vector();
    a.cache.kind = StateKind::kv;
    a.cache.pages = cache_.data();
    a.cache.page_bytes = page_bytes_;
    a.cache.elements = 2 * kv_width;
    a.cache.page_tokens = shape_.page_tokens;
    a.cache.dtype = shape_.dtype;
    a.y = y.tensor();
    a.head_dim = shape_.head_dim;
    a.scale = scale();
    a.window = shape_.window;
    a.softcap = shape_.softcap;
    a.t = built.step.t;
    a.heads = shape_.heads;
    a.kv_heads = shape_.kv_heads;
    cpu::Workspace workspace;
    cpu::Context context{built.step, workspace, threads, cpu::Precision::exact};
    cpu::flash_attention(a, context);
    y.check_sentinels("y");
    expect(cache_.back() == kGuard, "nothing is written behind the pages");
    std::vector<std::vector<float>> rows;
    for (int i = 0; i < built.step.t; ++i) rows.emplace_back(&y.at(i, 0), &y.at(i, 0) + q_width);
    return rows;
  }

  // y of the last token of a path that starts at position 0.
  std::vector<double> reference(const std::vector<Token>& path) const {
    const int d = shape_.head_dim, group = shape_.heads / shape_.kv_heads;
    const int q_width = shape_.heads * d, kv_width = shape_.kv_heads * d;
    const int last = static_cast<int>(path.size()) - 1;
    const int first = shape_.window > 0 ? std::max(0, last - shape_.window + 1) : 0;
    std::vector<double> y(static_cast<size_t>(q_width), 0);
    for (int head = 0; head < shape_.heads; ++head) {
      const int k_column = q_width + head / group * d, v_column = k_column + kv_width;
      std::vector<double> scores;
      std::vector<std::vector<double>> values;
      for (int j = first; j <= last; ++j) {
        const Token token = path[static_cast<size_t>(j)];
        const std::vector<double> key = kept_row(token, k_column);
        values.push_back(kept_row(token, v_column));
        double dot = 0;
        for (int c = 0; c < d; ++c)
          dot += static_cast<double>(value(path.back(), head * d + c)) * key[static_cast<size_t>(c)];
        double score = dot * scale();
        if (shape_.softcap > 0) score = shape_.softcap * std::tanh(score / shape_.softcap);
        if (shape_.has_alibi) score += static_cast<double>(slopes_.at(0, head)) * (j - last);
        scores.push_back(score);
      }
      double total = shape_.has_sinks ? std::exp(static_cast<double>(sinks_.at(0, head))) : 0;
      for (const double score : scores) total += std::exp(score);
      for (int j = first; j <= last; ++j)
        for (int c = 0; c < d; ++c)
          y[static_cast<size_t>(head * d + c)] +=
              std::exp(scores[static_cast<size_t>(j - first)]) / total *
              values[static_cast<size_t>(j - first)][static_cast<size_t>(c)];
    }
    return y;
  }

  void expect_reference(const std::vector<float>& y, const std::vector<Token>& path,
                        const std::string& what) const {
    constexpr double kTolerance = 4e-6;  // f32 sums of up to a few thousand terms
    const std::vector<double> expected = reference(path);
    for (size_t i = 0; i < expected.size(); ++i)
      expect_near(y[i], expected[i], kTolerance,
                  what + ", position " + std::to_string(path.size() - 1) + ", element " + std::to_string(i));
  }

 private:
  static constexpr std::byte kGuard{0x5a};
  std::vector<double> kept_row(Token token, int column) const {
    std::vector<float> row;
    for (int c = 0; c < shape_.head_dim; ++c) row.push_back(value(token, column + c));
    return kept(shape_.dtype, row);
  }
  float scale() const { return 2.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }
  static float value(Token token, int column) {
    Numbers numbers(static_cast<uint64_t>(token.id) * 1000003 + static_cast<uint64_t>(token.position) * 8191 +
                    static_cast<uint64_t>(column));
    return 2 * numbers.next();
  }
  std::vector<int32_t> pages_for(const SequenceInput& sequence) {
    std::vector<int32_t>& pages = pages_[sequence.slot];
    const int pending = sequence.accepted.empty() ? 0 : sequence.accepted.back() + 1;
    const int tokens =
        sequence.length +
        std::max<int>(pending, static_cast<int>(sequence.accepted.size() + sequence.ids.size()));
    while (static_cast<int>(pages.size()) * shape_.page_tokens < tokens) {
      expect(!free_pages_.empty(), "the test has pages left");
      pages.push_back(free_pages_.back());
      free_pages_.pop_back();
    }
    return pages;
  }

  AttentionShape shape_;
  Rows sinks_, slopes_;
  int64_t page_bytes_;
  std::vector<std::byte> cache_;
  std::vector<int32_t> free_pages_;
  std::map<int32_t, std::vector<int32_t>> pages_;  // by slot
};

}  // namespace crosscurrent::test
