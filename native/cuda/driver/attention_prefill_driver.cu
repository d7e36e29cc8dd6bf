// Prefill attention: `attention_prefill_driver check | small | bench [--json FILE]`
//
// The reference is float64 on the host. Every case also runs on the mma.sync path.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <thread>

#include "../flash_attention_prefill.h"
#include "harness.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251126;

struct Shape {
  int64_t heads, kv_heads, head_dim;
  int32_t page_tokens = 0;  // 0: contiguous
  bool is_causal = true;
  int32_t window = 0;
  float softcap = 0;
  bool has_sinks = false, has_slopes = false;
  float scale = 0;  // 0: 1 / sqrt(head_dim)

  std::string name() const {
    return std::to_string(heads) + "/" + std::to_string(kv_heads) + " d" + std::to_string(head_dim) +
           (is_causal ? " causal" : " full") + (page_tokens ? " page " + std::to_string(page_tokens) : "") +
           (window ? " window " + std::to_string(window) : "") + (softcap != 0 ? " softcap" : "") +
           (has_sinks ? " sinks" : "") + (has_slopes ? " alibi" : "") + (scale != 0 ? " scale" : "");
  }
  float scale_or_default() const {
    return scale != 0 ? scale : 1.0f / std::sqrt(static_cast<float>(head_dim));
  }
};

struct Length {
  int32_t committed, tokens;
  int32_t keys() const { return committed + tokens; }
};

std::vector<float> rounded(const std::vector<float>& v) { return to_float(to_bf16(v)); }

// A step on the host, and its reference. Keys and values of sequence s: rows from first_key[s] on.
struct Problem {
  Shape s;
  std::vector<Length> lengths;
  std::vector<int32_t> first{0}, first_key{0};
  std::vector<float> q, k, v, sinks, slopes;

  Problem(Rng& rng, const Shape& shape, const std::vector<Length>& all) : s(shape), lengths(all) {
    for (const Length& length : lengths) {
      first.push_back(first.back() + length.tokens);
      first_key.push_back(first_key.back() + length.keys());
    }
    q = rounded(rng.normals(first.back() * s.heads * s.head_dim, 1.5));
    k = rounded(rng.normals(first_key.back() * s.kv_heads * s.head_dim));
    v = rounded(rng.normals(first_key.back() * s.kv_heads * s.head_dim));
    if (s.has_sinks) sinks = rng.normals(s.heads, 2);
    if (s.has_slopes) slopes = rng.uniforms(s.heads, 0.01, 0.5);
  }

  void reference_row(int seq, int token, int64_t head, double* y) const {
    const int64_t d = s.head_dim, kv_head = head / (s.heads / s.kv_heads);
    const Length& length = lengths[static_cast<size_t>(seq)];
    const int position = length.committed + token;
    const int end = s.is_causal ? position + 1 : length.keys();
    const int low = s.window > 0 ? std::max(0, position - s.window + 1) : 0;
    const float* const query = q.data() + ((first[static_cast<size_t>(seq)] + token) * s.heads + head) * d;
    const auto row = [&](const std::vector<float>& from, int key) {
      return from.data() + ((first_key[static_cast<size_t>(seq)] + key) * s.kv_heads + kv_head) * d;
    };
    std::vector<double> scores;
    double most = s.has_sinks ? sinks[static_cast<size_t>(head)] : -INFINITY;
    for (int key = low; key < end; ++key) {
      double score = 0;
      for (int64_t j = 0; j < d; ++j) score += double{query[j]} * row(k, key)[j];
      score *= s.scale_or_default();
      if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
      if (s.has_slopes) score -= double{slopes[static_cast<size_t>(head)]} * std::abs(position - key);
      scores.push_back(score);
      most = std::max(most, score);
    }
    double total = s.has_sinks ? std::exp(sinks[static_cast<size_t>(head)] - most) : 0;
    std::fill_n(y, d, 0.0);
    for (int key = low; key < end; ++key) {
      const double weight = std::exp(scores[static_cast<size_t>(key - low)] - most);
      total += weight;
      for (int64_t j = 0; j < d; ++j) y[j] += weight * row(v, key)[j];
    }
    for (int64_t j = 0; j < d; ++j) y[j] /= total;
  }

  std::vector<double> reference() const {
    std::vector<double> y(q.size());
    std::atomic<int> next{0};
    const auto work = [&] {
      for (int at = next++; at < first.back(); at = next++) {
        const auto seq =
            static_cast<int>(std::upper_bound(first.begin(), first.end(), at) - first.begin()) - 1;
        for (int64_t head = 0; head < s.heads; ++head)
          reference_row(seq, at - first[static_cast<size_t>(seq)], head,
                        y.data() + (at * s.heads + head) * s.head_dim);
      }
    };
    std::vector<std::thread> threads(std::max(1U, std::thread::hardware_concurrency()));
    for (auto& thread : threads) thread = std::thread(work);
    for (auto& thread : threads) thread.join();
    return y;
  }
};

// The step on the device. Rows of the cache that nobody wrote hold NaN.
class Step {
 public:
  explicit Step(const Problem& p) {
    const Shape& s = p.s;
    const auto seqs = static_cast<int32_t>(p.lengths.size());
    int32_t longest = 1;
    std::vector<int32_t> length, accepted_first{0};
    for (const Length& l : p.lengths) {
      longest = std::max(longest, l.keys());
      // some of the committed tokens as accepted ones of the last step
      const int32_t accepted = std::min(l.committed, 3);
      length.push_back(l.committed - accepted);
      accepted_first.push_back(accepted_first.back() + accepted);
    }
    const int64_t tokens = s.page_tokens ? s.page_tokens : longest, width = s.kv_heads * s.head_dim;
    const auto max_pages = static_cast<int32_t>(ceil_div<int64_t>(longest, tokens));
    const int64_t page = 2 * width * tokens;
    std::vector<int32_t> table(static_cast<size_t>(seqs * max_pages));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    Rng rng(kSeed);
    if (s.page_tokens)
      for (size_t i = table.size(); i > 1; --i)
        std::swap(table[i - 1], table[static_cast<size_t>(rng.below(static_cast<int64_t>(i)))]);
    std::vector<bf16> cache(table.size() * static_cast<size_t>(page), __float2bfloat16(NAN));
    for (int seq = 0; seq < seqs; ++seq)
      for (int row = 0; row < p.lengths[static_cast<size_t>(seq)].keys(); ++row)
        for (int64_t head = 0; head < s.kv_heads; ++head) {
          const int64_t to = table[static_cast<size_t>(seq * max_pages + row / tokens)] * page +
                             (head * 2 * tokens + row % tokens) * s.head_dim;
          const int64_t from = (p.first_key[static_cast<size_t>(seq)] + row) * width + head * s.head_dim;
          for (int64_t j = 0; j < s.head_dim; ++j) {
            cache[static_cast<size_t>(to + j)] = __float2bfloat16(p.k[static_cast<size_t>(from + j)]);
            cache[static_cast<size_t>(to + tokens * s.head_dim + j)] =
                __float2bfloat16(p.v[static_cast<size_t>(from + j)]);
          }
        }
    const auto keep = [](auto& holder, const auto& host) {
      holder = std::make_unique<std::remove_reference_t<decltype(*holder)>>(host);
      return holder->data();
    };
    bf16* const base = keep(cache_, cache);
    y_ = std::make_unique<Buffer<bf16>>(static_cast<int64_t>(p.q.size()));
    args.q = keep(q_, to_bf16(p.q));
    args.cache = {base,       base + tokens * s.head_dim,
                  page,       2 * tokens * s.head_dim,
                  s.head_dim, s.page_tokens ? keep(pages_, table) : nullptr,
                  max_pages,  s.page_tokens};
    args.sinks = s.has_sinks ? keep(sinks_, p.sinks) : nullptr;
    args.slopes = s.has_slopes ? keep(slopes_, p.slopes) : nullptr;
    args.y = y_->data();
    args.q_stride = args.y_stride = s.heads * s.head_dim;
    args.sequences = {keep(first_, p.first),
                      keep(length_, length),
                      keep(accepted_first_, accepted_first),
                      nullptr,
                      nullptr,
                      seqs,
                      p.first.back(),
                      longest};
    args.heads = s.heads;
    args.kv_heads = s.kv_heads;
    args.head_dim = s.head_dim;
    args.scale = s.scale_or_default();
    args.is_causal = s.is_causal;
    args.window = s.window;
    args.softcap = s.softcap;
  }

  // Twice in the same workspace, which a launch must leave as it found it.
  std::vector<bf16> run(bool on_mma) {
    std::vector<bf16> y;
    for (int i = 0; i < 2; ++i) {
      y_->poison();
      on_mma ? flash_attention_prefill_mma(args, nullptr)
             : flash_attention_prefill(args, workspace_, nullptr);
      const auto again = y_->download();
      if (i == 1) same = std::memcmp(y.data(), again.data(), y.size() * sizeof(bf16)) == 0;
      y = again;
    }
    intact = y_->intact() && workspace_.intact() && cache_->intact();
    return y;
  }

  FlashAttentionPrefillArgs args{};
  bool intact = true, same = true;

 private:
  WorkspaceBuffer workspace_{256};
  std::unique_ptr<Buffer<bf16>> cache_, q_, y_;
  std::unique_ptr<Buffer<float>> sinks_, slopes_;
  std::unique_ptr<Buffer<int32_t>> pages_, first_, length_, accepted_first_;
};

double largest_norm = 0;

void check_shape(Report& report, Rng& rng, const Shape& s, const std::vector<Length>& lengths) {
  const Problem problem(rng, s, lengths);
  const auto expected = problem.reference();
  Step step(problem);
  for (const bool on_mma : {false, true}) {
    const std::string name = s.name() + (on_mma ? ", mma" : "");
    const auto y = step.run(on_mma);
    const Difference d =
        report.compare(name, y, expected, {.absolute = 1e-2, .relative = 1e-2, .norm = 5e-3});
    largest_norm = std::max(largest_norm, d.norm);
    report.expect(step.intact, name + ": sentinels");
    report.expect(step.same, name + ": the same bits again");
  }
}

// One under, at and one over the tiles of every kernel; an empty sequence between others.
const std::vector<Length> kPrompts{{0, 1},   {0, 63},  {0, 64},  {0, 65},  {0, 0},   {0, 127}, {0, 128},
                                   {0, 129}, {0, 191}, {0, 192}, {0, 193}, {0, 257}, {0, 400}};
const std::vector<Length> kContinued{{130, 1}, {5, 128},  {256, 128}, {127, 130},
                                     {300, 0}, {511, 65}, {64, 250}};

void check_shapes(Report& report, Rng& rng) {
  for (const int64_t dim : {128, 64, 96, 256}) {
    for (const bool is_causal : {true, false}) {
      for (const int page : {0, 16, 64, 256}) {
        check_shape(report, rng, {4, 2, dim, page, is_causal}, kPrompts);
        check_shape(report, rng, {4, 1, dim, page, is_causal}, kContinued);
      }
      check_shape(report, rng, {4, 2, dim, 32, is_causal, 0, 8.0f, true, true}, kContinued);
      check_shape(report, rng, {4, 2, dim, 0, is_causal, 0, 0, true}, kPrompts);
      check_shape(report, rng, {2, 2, dim, 0, is_causal, 0, 0, false, true}, kPrompts);
      check_shape(report, rng, {2, 1, dim, 0, is_causal, 0, 0, false, false, -0.2f}, kPrompts);
    }
    for (const int window : {1, 2, 63, 64, 65, 128, 200, 1000})
      check_shape(report, rng, {4, 2, dim, window % 2 ? 16 : 0, true, window, 0, window == 65},
                  window % 2 ? kContinued : kPrompts);
    check_shape(report, rng, {4, 2, dim, 0, true, 100, 20.0f, true, true}, kContinued);
  }
  // more sequences than a warp looks at, more tiles than blocks
  std::vector<Length> many;
  for (int i = 0; i < 75; ++i) many.push_back({static_cast<int32_t>(rng.below(40)), i % 9 * 17});
  check_shape(report, rng, {8, 2, 128}, many);
  check_shape(report, rng, {8, 8, 64, 16, false}, many);
  check_shape(report, rng, {12, 4, 128}, {{0, 2000}});
  check_shape(report, rng, {6, 1, 64}, {{0, 1500}, {100, 900}});
  check_shape(report, rng, {20, 20, 256}, {{0, 1500}});  // two sections of heads
}

void check_errors(Report& report, Rng& rng) {
  const Problem problem(rng, {8, 2, 128, 16}, {{0, 20}, {3, 30}});
  Step step(problem);
  WorkspaceBuffer workspace(flash_attention_prefill_workspace(step.args));
  const auto bad = [&](const char* words, auto change) {
    FlashAttentionPrefillArgs args = step.args;
    change(args);
    report.expect_error(words, Code::invalid_argument, words,
                        [&] { flash_attention_prefill(args, workspace, nullptr); });
  };
  using Args = FlashAttentionPrefillArgs;
  bad("head_dim", [](Args& a) { a.head_dim = 80; });
  bad("heads", [](Args& a) { a.heads = 9; });
  bad("kv_heads", [](Args& a) { a.kv_heads = 0; });
  bad("seqs", [](Args& a) { a.sequences.seqs = -1; });
  bad("t: expected", [](Args& a) { a.sequences.t = -1; });
  bad("t: expected", [](Args& a) { a.sequences.seqs = 0; });
  bad("max_tokens", [](Args& a) { a.sequences.max_tokens = 0; });
  bad("max_pages", [](Args& a) { a.cache.max_pages = 1; });
  bad("page_tokens", [](Args& a) { a.cache.page_tokens = 24; });
  bad("page_tokens", [](Args& a) { a.cache.page_tokens = 8; });
  bad("scale", [](Args& a) { a.scale = INFINITY; });
  bad("window", [](Args& a) { a.window = -1; });
  bad("window", [](Args& a) { a.window = 5, a.is_causal = false; });
  bad("softcap", [](Args& a) { a.softcap = -1; });
  bad("q_stride", [](Args& a) { a.q_stride = 8; });
  bad("y_stride", [](Args& a) { a.y_stride = 8; });
  bad("token_stride", [](Args& a) { a.cache.token_stride = 100; });
  bad("page_stride", [](Args& a) { a.cache.page_stride = 1; });
  bad("q: expected a pointer", [](Args& a) { a.q = nullptr; });
  bad("y: expected a pointer", [](Args& a) { a.y += 1; });
  bad("cache v", [](Args& a) { a.cache.v = static_cast<bf16*>(a.cache.v) + 1; });
  bad("cache type", [](Args& a) { a.cache.type = KvType::i8; });
  bad("first", [](Args& a) { a.sequences.first = nullptr; });
  report.expect_error("workspace", Code::invalid_argument, "workspace",
                      [&] { flash_attention_prefill(step.args, {Workspace(workspace).data, 64}, nullptr); });
  Args empty{};
  empty.head_dim = 64;
  empty.heads = empty.kv_heads = 1;
  empty.sequences.max_tokens = 1;
  flash_attention_prefill(empty, {}, nullptr);  // nothing to do: nothing is looked at
}

void check(Report& report) {
  Rng rng(kSeed);
  check_shape(report, rng, {2, 1, 128}, {{0, 1}, {0, 200}, {70, 130}});
  check_shape(report, rng, {2, 1, 64, 16, true, 50, 5.0f, true, true}, {{30, 193}, {0, 65}});
  check_shape(report, rng, {2, 1, 256, 16, false}, {{10, 70}, {0, 129}});
  if (report.small()) return;
  check_shapes(report, rng);
  check_errors(report, rng);
  std::printf("largest difference in norm %.2e\n", largest_norm);
}

void bench_shape(Report& report, const Shape& s, int seqs, int tokens, bool on_mma = false) {
  const int64_t width = s.kv_heads * s.head_dim, t = int64_t{seqs} * tokens, row = s.heads * s.head_dim;
  const int64_t page_tokens = s.page_tokens ? s.page_tokens : tokens;
  const auto pages = static_cast<int32_t>(tokens / page_tokens);
  const int64_t set = 2 * t * row + 2 * t * width;  // q, y, keys and values
  const int sets = rotation(static_cast<size_t>(2 * set));
  Rng rng(kSeed);
  const auto noise = rng.normals_bf16(1 << 20);
  Buffer<bf16> data(set * sets);
  for (int64_t at = 0; at < data.size(); at += 1 << 20)
    check_cuda(cudaMemcpy(data.data() + at, noise.data(),
                          static_cast<size_t>(std::min<int64_t>(1 << 20, data.size() - at)) * sizeof(bf16),
                          cudaMemcpyHostToDevice),
               "cudaMemcpy");
  std::vector<int32_t> first{0}, table(static_cast<size_t>(seqs * pages));
  for (int seq = 0; seq < seqs; ++seq) first.push_back(first.back() + tokens);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  for (size_t i = table.size(); s.page_tokens && i > 1; --i)
    std::swap(table[i - 1], table[static_cast<size_t>(rng.below(static_cast<int64_t>(i)))]);
  Buffer<int32_t> d_first(first), d_table(table), d_length(seqs);
  d_length.zero();
  Buffer<float> sinks(std::vector<float>(static_cast<size_t>(s.heads), 0.5f));
  WorkspaceBuffer workspace(256);
  const auto run = [&](cudaStream_t stream, int i) {
    bf16* const q = data.data() + i * set;
    bf16* const cache = q + 2 * t * row;
    FlashAttentionPrefillArgs a{};
    a.q = q;
    a.y = q + t * row;
    a.q_stride = a.y_stride = row;
    a.cache = {cache,
               cache + page_tokens * s.head_dim,
               2 * page_tokens * width,
               2 * page_tokens * s.head_dim,
               s.head_dim,
               s.page_tokens ? d_table.data() : nullptr,
               pages,
               s.page_tokens};
    a.sinks = s.has_sinks ? sinks.data() : nullptr;
    a.slopes = s.has_slopes ? sinks.data() : nullptr;
    a.sequences = {d_first.data(), d_length.data(), nullptr, nullptr, nullptr, seqs, t, tokens};
    a.heads = s.heads;
    a.kv_heads = s.kv_heads;
    a.head_dim = s.head_dim;
    a.scale = s.scale_or_default();
    a.is_causal = s.is_causal;
    a.window = s.window;
    a.softcap = s.softcap;
    on_mma ? flash_attention_prefill_mma(a, stream) : flash_attention_prefill(a, workspace, stream);
  };
  double keys = 0;  // that rows of a sequence see, causal: half of them
  if (s.window > 0)
    for (int i = 0; i < tokens; ++i) keys += std::min(i + 1, s.window);
  else
    keys = (s.is_causal ? 0.5 : 1.0) * tokens * tokens;
  const double flop = 4.0 * static_cast<double>(row) * seqs * keys;
  const int launches = std::clamp(static_cast<int>(4e12 / flop), 2, 20);
  const Timing timing = time_graph(sets, run, {.launches = launches, .samples = 40, .warm_up = 5});
  report.measured({on_mma ? "flash_attention_prefill_mma" : "flash_attention_prefill",
                   s.name() + " B" + std::to_string(seqs) + " S" + std::to_string(tokens), timing.median_ms,
                   timing.p5_ms, timing.p95_ms, flop / timing.median_ms * 1e-9, "tflop_s",
                   ceilings().mma_tflop_s});
}

void bench(Report& report) {
  const Shape causal{32, 8, 128}, full{32, 8, 128, 0, false}, narrow{32, 8, 64};
  for (const int tokens : {512, 2048, 8192, 32768})
    bench_shape(report, causal, std::max(1, 16384 / tokens), tokens);
  for (const int tokens : {512, 2048, 8192}) bench_shape(report, full, 16384 / tokens, tokens);
  bench_shape(report, narrow, 8, 2048);
  bench_shape(report, narrow, 2, 8192);
  bench_shape(report, {32, 8, 64, 0, false}, 2, 8192);
  bench_shape(report, {24, 8, 96}, 2, 8192);
  bench_shape(report, {16, 8, 256}, 2, 8192);
  for (const int page : {16, 64, 256}) bench_shape(report, {32, 8, 128, page}, 2, 8192);
  bench_shape(report, {32, 8, 128, 0, true, 1024}, 2, 8192);
  bench_shape(report, {32, 8, 128, 0, true, 0, 0, true}, 2, 8192);
  bench_shape(report, {32, 8, 128, 0, true, 0, 30.0f}, 2, 8192);
  bench_shape(report, {32, 8, 128, 0, true, 0, 0, false, true}, 2, 8192);
  bench_shape(report, causal, 8, 2048, true);
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  namespace driver = crosscurrent::cuda::driver;
  return driver::main(argc, argv, driver::check, driver::bench);
}
