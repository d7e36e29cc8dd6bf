// Decode attention: `attention_decode_driver check | small | bench [--json FILE]`
//
// The reference is float64 on the host, over keys in logical order. Trees are also decoded token by token: a
// drafted row must have the bits of plain decoding. Caches of 8 bits are compared with what they hold.
//
// Longer than 400 lines: cases, reference, checks and timing of a family are one program.
#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "../flash_attention_decode.h"
#include "harness.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251125;

struct Shape {
  int64_t heads, kv_heads, head_dim;
  int32_t page_tokens;  // 0: contiguous
  int32_t window = 0;
  float softcap = 0;
  bool has_sinks = false;
  int64_t max_tokens = 1200;
  KvType type = KvType::bf16;
  bool has_one_scale = false;

  bool is_byte() const { return type != KvType::bf16; }
  Shape with(KvType other, bool one_scale = false) const {
    Shape s = *this;
    s.type = other, s.has_one_scale = one_scale;
    return s;
  }
  std::string name() const {
    return std::to_string(heads) + "/" + std::to_string(kv_heads) + " d" + std::to_string(head_dim) +
           " page " + std::to_string(page_tokens) + (window ? " window " + std::to_string(window) : "") +
           (softcap ? " softcap" : "") + (has_sinks ? " sinks" : "") +
           (type == KvType::f8 ? " f8"
            : is_byte()        ? " i8"
                               : "") +
           (has_one_scale ? " one scale" : "");
  }
};

constexpr float kOneScale = 0.015f;  // times 448: beyond any value here

// A row of a kv head as an 8-bit cache holds it.
struct Stored {
  float scale;
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};

Stored store(const Shape& s, const float* row) {
  const float most = s.type == KvType::f8 ? 448.0f : 127.0f;
  Stored stored{kOneScale, {}, {}};
  if (!s.has_one_scale) {
    float largest = 0;
    for (int64_t j = 0; j < s.head_dim; ++j) largest = std::max(largest, std::abs(row[j]));
    stored.scale = largest / most;
  }
  for (int64_t j = 0; j < s.head_dim; ++j) {
    const float x = stored.scale == 0 ? 0.0f : row[j] / stored.scale;
    uint8_t byte;
    float value;
    if (s.type == KvType::f8) {
      byte = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
      value = __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, __NV_E4M3)));
    } else {
      const auto q = static_cast<int8_t>(std::nearbyint(std::clamp(x, -127.0f, 127.0f)));
      byte = static_cast<uint8_t>(q);
      value = q;
    }
    stored.bytes.push_back(byte);
    stored.values.push_back(value * stored.scale);
  }
  return stored;
}

// One sequence of a step: committed rows, then nodes with parents in the sequence's own numbers.
struct Sequence {
  int32_t committed;
  std::vector<int32_t> parent;
  std::vector<float> keys, values;  // [committed + nodes, kv_heads * head_dim], as the cache holds them
  std::vector<float> q;             // [nodes, heads * head_dim]

  int nodes() const { return static_cast<int>(parent.size()); }
  int position(int node) const { return parent[node] < 0 ? committed : position(parent[node]) + 1; }
  // Rows of the cache that a node sees, in order of position.
  std::vector<int> rows(int node) const {
    std::vector<int> path;
    for (int i = node; i >= 0; i = parent[i]) path.push_back(committed + i);
    std::vector<int> rows(static_cast<size_t>(committed));
    for (int i = 0; i < committed; ++i) rows[static_cast<size_t>(i)] = i;
    rows.insert(rows.end(), path.rbegin(), path.rend());
    return rows;
  }
};

std::vector<float> rounded(const std::vector<float>& v) { return to_float(to_bf16(v)); }

// What the cache makes of rows [*, kv_heads * head_dim].
std::vector<float> rounded(const Shape& s, const std::vector<float>& v) {
  if (!s.is_byte()) return rounded(v);
  std::vector<float> result;
  for (size_t at = 0; at < v.size(); at += static_cast<size_t>(s.head_dim)) {
    const Stored stored = store(s, v.data() + at);
    result.insert(result.end(), stored.values.begin(), stored.values.end());
  }
  return result;
}

Sequence make_sequence(Rng& rng, const Shape& s, int committed, const std::vector<int32_t>& parent) {
  const auto nodes = static_cast<int64_t>(parent.size());
  Sequence sequence{committed, parent, {}, {}, {}};
  sequence.keys = rounded(s, rng.normals((committed + nodes) * s.kv_heads * s.head_dim));
  sequence.values = rounded(s, rng.normals((committed + nodes) * s.kv_heads * s.head_dim));
  sequence.q = rounded(rng.normals(nodes * s.heads * s.head_dim, 1.5));
  return sequence;
}

std::vector<int32_t> chain(int nodes) {
  std::vector<int32_t> parent;
  for (int i = 0; i < nodes; ++i) parent.push_back(i - 1);
  return parent;
}

std::vector<int32_t> tree(Rng& rng, int nodes) {
  std::vector<int32_t> parent;
  for (int i = 0; i < nodes; ++i)  // often the last, so that paths grow long
    parent.push_back(rng.below(2) == 0 ? i - 1 : static_cast<int32_t>(rng.below(i + 1)) - 1);
  return parent;
}

float scale_of(const Shape& s) { return 1.0f / std::sqrt(static_cast<float>(s.head_dim)); }

std::vector<double> reference(const Shape& s, const std::vector<Sequence>& batch,
                              const std::vector<float>& sinks) {
  std::vector<double> y;
  const int64_t d = s.head_dim, group = s.heads / s.kv_heads, width = s.kv_heads * d;
  for (const Sequence& seq : batch) {
    for (int node = 0; node < seq.nodes(); ++node) {
      const std::vector<int> rows = seq.rows(node);
      const int position = static_cast<int>(rows.size()) - 1;
      const int low = s.window > 0 ? std::max(0, position - s.window + 1) : 0;
      for (int64_t head = 0; head < s.heads; ++head) {
        const float* q = seq.q.data() + (node * s.heads + head) * d;
        std::vector<double> scores;
        double most = s.has_sinks ? double{sinks[static_cast<size_t>(head)]} : -INFINITY;
        for (int i = low; i <= position; ++i) {
          const float* key = seq.keys.data() + rows[static_cast<size_t>(i)] * width + head / group * d;
          double score = 0;
          for (int64_t j = 0; j < d; ++j) score += double{q[j]} * key[j];
          score *= scale_of(s);
          if (s.softcap > 0) score = s.softcap * std::tanh(score / s.softcap);
          scores.push_back(score);
          most = std::max(most, score);
        }
        double total = s.has_sinks ? std::exp(sinks[static_cast<size_t>(head)] - most) : 0;
        std::vector<double> sum(static_cast<size_t>(d), 0.0);
        for (int i = low; i <= position; ++i) {
          const double weight = std::exp(scores[static_cast<size_t>(i - low)] - most);
          const float* value = seq.values.data() + rows[static_cast<size_t>(i)] * width + head / group * d;
          total += weight;
          for (int64_t j = 0; j < d; ++j) sum[static_cast<size_t>(j)] += weight * value[j];
        }
        for (const double v : sum) y.push_back(v / total);
      }
    }
  }
  return y;
}

// A batch on the device. Rows that nobody wrote hold NaN.
class Step {
 public:
  Step(const Shape& s, const std::vector<Sequence>& batch, const std::vector<float>& sinks, uint64_t seed,
       bool writes_nodes = true)
      : s_(s), seqs_(static_cast<int32_t>(batch.size())) {
    const int64_t tokens = s.page_tokens ? s.page_tokens : s.max_tokens, width = s.kv_heads * s.head_dim;
    max_pages_ = static_cast<int32_t>(ceil_div<int64_t>(s.max_tokens, tokens));
    const int64_t page = 2 * width * tokens, pages = int64_t{seqs_} * max_pages_ + 1;
    std::vector<int32_t> table(static_cast<size_t>(seqs_ * max_pages_));
    for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
    Rng rng(seed);
    if (s.page_tokens)
      for (size_t i = table.size(); i > 1; --i)
        std::swap(table[i - 1], table[static_cast<size_t>(rng.below(static_cast<int64_t>(i)))]);
    std::vector<bf16> cache(s.is_byte() ? 0 : static_cast<size_t>(pages * page), __float2bfloat16(NAN));
    std::vector<uint8_t> bytes(s.is_byte() ? static_cast<size_t>(pages * page) : 0, 0x7F);
    const int64_t scales = s.has_one_scale ? 1 : pages * s.kv_heads * tokens;
    const float unwritten = s.has_one_scale ? kOneScale : NAN;
    std::vector<float> k_scale(static_cast<size_t>(scales), unwritten), v_scale = k_scale;
    std::vector<int32_t> first{0}, length, position, parent;
    std::vector<float> q, k, v;
    for (int seq = 0; seq < seqs_; ++seq) {
      const Sequence& from = batch[static_cast<size_t>(seq)];
      const int rows = from.committed + (writes_nodes ? from.nodes() : 0);
      for (int row = 0; row < rows; ++row)
        for (int64_t head = 0; head < s.kv_heads; ++head) {
          const int64_t in = table[static_cast<size_t>(seq * max_pages_ + row / tokens)];
          const int64_t at = in * page + (head * 2 * tokens + row % tokens) * s.head_dim;
          const int64_t source = row * width + head * s.head_dim;
          if (s.is_byte()) {
            const Stored k = store(s, from.keys.data() + source), v = store(s, from.values.data() + source);
            std::copy(k.bytes.begin(), k.bytes.end(), bytes.begin() + at);
            std::copy(v.bytes.begin(), v.bytes.end(), bytes.begin() + at + tokens * s.head_dim);
            const auto scale =
                static_cast<size_t>(s.has_one_scale ? 0 : (in * s.kv_heads + head) * tokens + row % tokens);
            k_scale[scale] = k.scale, v_scale[scale] = v.scale;
            continue;
          }
          for (int64_t j = 0; j < s.head_dim; ++j) {
            cache[static_cast<size_t>(at + j)] = __float2bfloat16(from.keys[static_cast<size_t>(source + j)]);
            cache[static_cast<size_t>(at + tokens * s.head_dim + j)] =
                __float2bfloat16(from.values[static_cast<size_t>(source + j)]);
          }
        }
      for (int i = 0; i < from.nodes(); ++i) {
        position.push_back(from.position(i));
        parent.push_back(from.parent[static_cast<size_t>(i)] < 0
                             ? -1
                             : first.back() + from.parent[static_cast<size_t>(i)]);
      }
      q.insert(q.end(), from.q.begin(), from.q.end());
      k.insert(k.end(), from.keys.begin() + from.committed * width, from.keys.end());
      v.insert(v.end(), from.values.begin() + from.committed * width, from.values.end());
      first.push_back(static_cast<int32_t>(parent.size()));
      length.push_back(from.committed);
    }
    t_ = static_cast<int64_t>(parent.size());
    const auto keep = [](auto& holder, const auto& host) {
      holder = std::make_unique<std::remove_reference_t<decltype(*holder)>>(host);
      return holder->data();
    };
    void *base, *second;
    if (s.is_byte()) {
      base = keep(bytes_, bytes);
      second = bytes_->data() + tokens * s.head_dim;
    } else {
      base = keep(cache_, cache);
      second = cache_->data() + tokens * s.head_dim;
    }
    y_ = std::make_unique<Buffer<bf16>>(t_ * s.heads * s.head_dim);
    args.q = keep(q_, to_bf16(q));
    args.cache = {base,       second,
                  page,       2 * tokens * s.head_dim,
                  s.head_dim, s.page_tokens ? keep(pages_, table) : nullptr,
                  max_pages_, s.page_tokens};
    if (s.is_byte()) {
      args.cache.type = s.type;
      args.cache.k_scale = keep(k_scale_, k_scale);
      args.cache.v_scale = keep(v_scale_, v_scale);
      if (!s.has_one_scale) {
        args.cache.scale_page_stride = s.kv_heads * tokens;
        args.cache.scale_head_stride = tokens;
        args.cache.scale_token_stride = 1;
      }
    }
    args.sinks = s.has_sinks ? keep(sinks_, sinks) : nullptr;
    args.y = y_->data();
    args.q_stride = args.y_stride = s.heads * s.head_dim;
    args.sequences = {keep(first_, first),
                      keep(length_, length),
                      nullptr,
                      keep(position_, position),
                      keep(parent_, parent),
                      seqs_,
                      t_,
                      s.max_tokens};
    args.heads = s.heads;
    args.kv_heads = s.kv_heads;
    args.head_dim = s.head_dim;
    args.scale = scale_of(s);
    args.window = s.window;
    args.softcap = s.softcap;
    append = {keep(k_, to_bf16(k)),
              keep(v_, to_bf16(v)),
              width,
              width,
              args.cache,
              args.sequences,
              nullptr,
              s.kv_heads,
              s.head_dim};
  }

  std::vector<bf16> run() {
    WorkspaceBuffer workspace(flash_attention_decode_workspace(args));
    flash_attention_decode(args, workspace, nullptr);
    auto y = y_->download();
    intact = y_->intact() && workspace.intact() &&
             (s_.is_byte() ? bytes_->intact() && k_scale_->intact() && v_scale_->intact() : cache_->intact());
    return y;
  }

  FlashAttentionDecodeArgs args{};
  FlashAttentionAppendArgs append{};
  bool intact = true;

 private:
  Shape s_;
  int32_t seqs_, max_pages_;
  int64_t t_;
  std::unique_ptr<Buffer<bf16>> cache_, q_, y_, k_, v_;
  std::unique_ptr<Buffer<uint8_t>> bytes_;
  std::unique_ptr<Buffer<float>> sinks_, k_scale_, v_scale_;
  std::unique_ptr<Buffer<int32_t>> pages_, first_, length_, position_, parent_;
};

std::vector<bf16> part(const std::vector<bf16>& y, int64_t row, int64_t count, int64_t width) {
  return {y.begin() + row * width, y.begin() + (row + count) * width};
}

// Plain decoding of one node: its path is committed but for itself.
Sequence plain(const Shape& s, const Sequence& from, int node) {
  const std::vector<int> rows = from.rows(node);
  const int64_t width = s.kv_heads * s.head_dim, q = s.heads * s.head_dim;
  Sequence result{static_cast<int32_t>(rows.size()) - 1, {-1}, {}, {}, {}};
  for (const int row : rows) {
    result.keys.insert(result.keys.end(), from.keys.begin() + row * width,
                       from.keys.begin() + (row + 1) * width);
    result.values.insert(result.values.end(), from.values.begin() + row * width,
                         from.values.begin() + (row + 1) * width);
  }
  result.q.assign(from.q.begin() + node * q, from.q.begin() + (node + 1) * q);
  return result;
}

void check_shape(Report& report, Rng& rng, const Shape& s, const std::vector<Sequence>& batch) {
  const std::string name = s.name();
  const std::vector<float> sinks = rng.normals(s.heads, 2);
  Step step(s, batch, sinks, 1);
  const auto y = step.run();
  report.compare(name, y, reference(s, batch, sinks), {.absolute = 8e-3, .relative = 1e-2, .norm = 5e-3});
  report.expect(step.intact, name + ": sentinels");
  report.same_bits(name + ": again", step.run(), y);
  // alone, in other pages
  const int64_t width = s.heads * s.head_dim;
  int64_t row = 0;
  for (const Sequence& seq : batch) {
    if (seq.nodes() == 0) continue;
    Step alone(s, {seq}, sinks, 2);
    report.same_bits(name + ": alone", alone.run(), part(y, row, seq.nodes(), width));
    // one node at a time, as plain decoding does it
    for (int node = 0; node < seq.nodes(); node += seq.nodes() > 8 ? 7 : 1) {
      Step decoded(s, {plain(s, seq, node)}, sinks, 3);
      report.same_bits(name + ": plain decoding of node " + std::to_string(node) + " of " +
                           std::to_string(seq.nodes()) + " at " + std::to_string(seq.committed),
                       decoded.run(), part(y, row + node, 1, width));
    }
    row += seq.nodes();
  }
}

std::vector<Sequence> ragged(Rng& rng, const Shape& s, const std::vector<int>& lengths) {
  std::vector<Sequence> batch;
  for (const int length : lengths) batch.push_back(make_sequence(rng, s, length, chain(1)));
  return batch;
}

void check_lengths(Report& report, Rng& rng) {
  for (const Shape& s :
       {Shape{8, 2, 128, 16}, Shape{8, 2, 128, 0}, Shape{8, 2, 128, 32}, Shape{6, 2, 64, 16},
        Shape{7, 1, 96, 64}, Shape{8, 1, 256, 16}, Shape{3, 3, 128, 16}, Shape{40, 2, 64, 16}})
    check_shape(report, rng, s,
                ragged(rng, s, {0, 1, 14, 15, 16, 17, 63, 64, 255, 256, 257, 511, 512, 1001}));
  for (const Shape& s : {Shape{8, 2, 128, 16, 1}, Shape{8, 2, 128, 16, 100}, Shape{8, 2, 64, 0, 256},
                         Shape{8, 2, 128, 16, 0, 5.0f}, Shape{8, 2, 128, 16, 300, 30.0f, true},
                         Shape{8, 2, 256, 16, 0, 20.0f, true}, Shape{8, 2, 96, 16, 17, 0, true}})
    check_shape(report, rng, s, ragged(rng, s, {0, 5, 16, 99, 255, 256, 300, 513, 900}));
  for (const KvType type : {KvType::f8, KvType::i8}) {
    for (const Shape& s :
         {Shape{8, 2, 128, 16}, Shape{8, 2, 128, 0}, Shape{6, 2, 64, 32}, Shape{7, 1, 96, 64},
          Shape{8, 1, 256, 16}, Shape{3, 3, 128, 16, 100}, Shape{8, 2, 64, 0, 0, 5.0f},
          Shape{8, 2, 128, 16, 300, 30.0f, true}, Shape{8, 2, 96, 16, 17, 0, true}}) {
      const Shape stored = s.with(type);
      check_shape(report, rng, stored,
                  ragged(rng, stored, {0, 1, 15, 16, 17, 63, 255, 256, 257, 511, 512, 1001}));
    }
    const Shape one = Shape{8, 2, 128, 16}.with(type, true);
    check_shape(report, rng, one, ragged(rng, one, {0, 15, 300, 513}));
  }
}

void check_trees(Report& report, Rng& rng) {
  const Shape f8 = Shape{8, 2, 128, 16}.with(KvType::f8), i8 = Shape{8, 2, 128, 0, 40}.with(KvType::i8);
  for (const Shape& s :
       {Shape{8, 2, 128, 16}, Shape{8, 2, 128, 0, 40}, Shape{4, 4, 64, 32},
        Shape{7, 1, 96, 16, 0, 10.0f, true}, Shape{16, 2, 256, 16}, Shape{32, 1, 128, 16}, f8, i8,
        Shape{16, 2, 256, 16}.with(KvType::i8), Shape{7, 1, 96, 16, 0, 10.0f, true}.with(KvType::f8)}) {
    std::vector<Sequence> batch;
    const auto add = [&](int committed, const std::vector<int32_t>& parent) {
      batch.push_back(make_sequence(rng, s, committed, parent));
    };
    add(0, chain(4));
    add(250, tree(rng, 16));
    add(511, {});
    add(512, chain(16));
    add(37, tree(rng, 64));
    add(255, {-1, -1, 0, 0, 1, 1, 2, 3});
    add(700, tree(rng, 5));
    add(15, chain(64));
    check_shape(report, rng, s, batch);
  }
}

void check_append(Report& report, Rng& rng) {
  for (const Shape& s : {Shape{8, 2, 128, 16}, Shape{4, 2, 64, 0}, Shape{8, 2, 128, 16}.with(KvType::f8),
                         Shape{4, 2, 96, 0}.with(KvType::i8), Shape{4, 1, 256, 16}.with(KvType::i8),
                         Shape{8, 2, 128, 16}.with(KvType::f8, true)}) {
    // what is appended is rounded to bf16 before: a step of the 8-bit grid here and there
    const Tolerance tolerance = s.is_byte() ? Tolerance{.absolute = 6e-2, .relative = 5e-2, .norm = 2e-2}
                                            : Tolerance{.absolute = 8e-3, .relative = 1e-2, .norm = 5e-3};
    std::vector<Sequence> batch;
    for (const int length : {0, 15, 16, 250, 511})
      batch.push_back(make_sequence(rng, s, length, tree(rng, 7)));
    Step step(s, batch, {}, 5, false);
    flash_attention_append(step.append, nullptr);
    report.compare("append " + s.name(), step.run(), reference(s, batch, {}), tolerance);
    // Accept nodes 1, 3 and 6 as if they were a path, then decode one token more.
    std::vector<int32_t> accepted, accepted_first{0};
    std::vector<Sequence> next;
    const int64_t width = s.kv_heads * s.head_dim;
    for (const Sequence& seq : batch) {
      Sequence after = make_sequence(rng, s, seq.committed + 3, chain(1));
      std::copy_n(seq.keys.begin(), seq.committed * width, after.keys.begin());
      std::copy_n(seq.values.begin(), seq.committed * width, after.values.begin());
      int to = seq.committed;
      for (const int node : {1, 3, 6}) {
        accepted.push_back(node);
        std::copy_n(seq.keys.begin() + (seq.committed + node) * width, width,
                    after.keys.begin() + to * width);
        std::copy_n(seq.values.begin() + (seq.committed + node) * width, width,
                    after.values.begin() + to * width);
        ++to;
      }
      accepted_first.push_back(static_cast<int32_t>(accepted.size()));
      next.push_back(after);
    }
    Step later(s, next, {}, 5);
    std::vector<int32_t> length;
    for (const Sequence& seq : batch) length.push_back(seq.committed);
    Buffer<int32_t> d_accepted(accepted), d_accepted_first(accepted_first), d_length(length);
    // the old cache, the new step
    later.args.cache = step.args.cache;
    later.args.sequences.length = d_length.data();
    later.args.sequences.accepted_first = d_accepted_first.data();
    later.append.cache = step.args.cache;
    later.append.sequences = later.args.sequences;
    later.append.accepted = d_accepted.data();
    flash_attention_append(later.append, nullptr);
    report.compare("append accepted " + s.name(), later.run(), reference(s, next, {}), tolerance);
    report.expect(step.intact && later.intact, "append: sentinels");
  }
}

void check_errors(Report& report, Rng& rng) {
  const Shape s{8, 2, 128, 16};
  Step step(s, ragged(rng, s, {20, 30}), {}, 1);
  WorkspaceBuffer workspace(flash_attention_decode_workspace(step.args));
  const auto bad = [&](const char* words, auto change) {
    FlashAttentionDecodeArgs args = step.args;
    change(args);
    report.expect_error(words, Code::invalid_argument, words,
                        [&] { flash_attention_decode(args, workspace, nullptr); });
  };
  using Args = FlashAttentionDecodeArgs;
  bad("head_dim", [](Args& a) { a.head_dim = 80; });
  bad("heads", [](Args& a) { a.heads = 9; });
  bad("kv_heads", [](Args& a) { a.kv_heads = 0; });
  bad("seqs", [](Args& a) { a.sequences.seqs = -1; });
  bad("t: expected", [](Args& a) { a.sequences.t = 129; });
  bad("max_tokens", [](Args& a) { a.sequences.max_tokens = 0; });
  bad("max_pages", [](Args& a) { a.cache.max_pages = 3; });
  bad("page_tokens", [](Args& a) { a.cache.page_tokens = 24; });
  bad("page_tokens", [](Args& a) { a.cache.page_tokens = 8; });
  bad("scale", [](Args& a) { a.scale = INFINITY; });
  bad("window", [](Args& a) { a.window = -1; });
  bad("softcap", [](Args& a) { a.softcap = -1; });
  bad("q_stride", [](Args& a) { a.q_stride = 8; });
  bad("y_stride", [](Args& a) { a.y_stride = 8; });
  bad("token_stride", [](Args& a) { a.cache.token_stride = 100; });
  bad("page_stride", [](Args& a) { a.cache.page_stride = 1; });
  bad("q: expected a pointer", [](Args& a) { a.q = nullptr; });
  bad("cache v", [](Args& a) { a.cache.v = static_cast<bf16*>(a.cache.v) + 1; });
  bad("cache type", [](Args& a) { a.cache.type = static_cast<KvType>(3); });
  bad("k_scale", [](Args& a) { a.cache.type = KvType::i8; });
  bad("scale_token_stride", [](Args& a) {
    a.cache.type = KvType::f8;
    a.cache.k_scale = a.cache.v_scale = static_cast<float*>(a.cache.k);
    a.cache.scale_page_stride = 16;
  });
  bad("first", [](Args& a) { a.sequences.first = nullptr; });
  bad("parent", [](Args& a) { a.sequences.parent = nullptr; });
  report.expect_error("workspace", Code::invalid_argument, "workspace",
                      [&] { flash_attention_decode(step.args, {Workspace(workspace).data, 64}, nullptr); });
  FlashAttentionDecodeArgs empty{};
  empty.head_dim = 64;
  empty.heads = empty.kv_heads = 1;
  empty.sequences.max_tokens = 1;
  flash_attention_decode(empty, {}, nullptr);  // nothing to do: nothing is looked at
  flash_attention_append({.cache = {}, .sequences = {}, .kv_heads = 1, .head_dim = 64}, nullptr);
  report.expect_error("append", Code::invalid_argument, "head_dim", [&] {
    flash_attention_append({.cache = {}, .sequences = {}, .kv_heads = 1, .head_dim = 60}, nullptr);
  });
}

void check_small(Report& report) {
  Rng rng(kSeed);
  for (const Shape& s : {Shape{8, 2, 128, 16}, Shape{4, 2, 64, 0, 20, 5.0f, true}, Shape{2, 1, 256, 16},
                         Shape{8, 2, 128, 16}.with(KvType::i8), Shape{4, 2, 64, 0}.with(KvType::f8)}) {
    std::vector<Sequence> batch = ragged(rng, s, {0, 17, 300});
    batch.push_back(make_sequence(rng, s, 250, tree(rng, 9)));
    Step step(s, batch, rng.normals(s.heads), 1);
    step.run();
    report.expect(step.intact, s.name() + ": sentinels");
  }
  check_append(report, rng);
}

void check(Report& report) {
  Rng rng(kSeed);
  check_small(report);
  if (report.small()) return;
  check_lengths(report, rng);
  check_trees(report, rng);
  check_errors(report, rng);
}

// Layers take turns, so that the cache of one launch is not in L2 from the last.
void bench_shape(Report& report, const Shape& shape, int seqs, int ctx, int nodes) {
  Shape s = shape;
  s.max_tokens = ctx + 64;
  const int64_t tokens = s.page_tokens ? s.page_tokens : s.max_tokens, width = s.kv_heads * s.head_dim;
  const auto pages = static_cast<int32_t>(ceil_div<int64_t>(s.max_tokens, tokens));
  const int64_t rows = int64_t{seqs} * pages * tokens;
  const auto element = static_cast<size_t>(kv_bytes(s.type));
  const size_t bytes = 2 * element * static_cast<size_t>(rows * width);
  const double row_bytes = 2.0 * static_cast<double>(width) * static_cast<double>(element) +
                           (s.is_byte() ? 8.0 * static_cast<double>(s.kv_heads) : 0);
  const double read = static_cast<double>(seqs) * (ctx + nodes) * row_bytes;
  const int sets = rotation(bytes);
  Rng rng(kSeed);
  const auto noise = rng.normals_bf16(1 << 20);
  Memory cache(bytes * static_cast<size_t>(sets));
  for (size_t at = 0; at < cache.bytes(); at += 2 << 20)
    check_cuda(cudaMemcpy(cache.data() + at, noise.data(), std::min<size_t>(2 << 20, cache.bytes() - at),
                          cudaMemcpyHostToDevice),
               "cudaMemcpy");
  std::vector<int32_t> table(static_cast<size_t>(seqs * pages));
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<int32_t>(i);
  for (size_t i = table.size(); i > 1; --i)
    std::swap(table[i - 1], table[static_cast<size_t>(rng.below(static_cast<int64_t>(i)))]);
  std::vector<int32_t> first{0}, length, position, parent;
  for (int seq = 0; seq < seqs; ++seq) {
    for (int i = 0; i < nodes; ++i) {
      position.push_back(ctx + i);
      parent.push_back(i == 0 ? -1 : first.back() + i - 1);
    }
    first.push_back(first.back() + nodes);
    length.push_back(ctx);
  }
  Buffer<int32_t> d_table(table), d_first(first), d_length(length), d_position(position), d_parent(parent);
  const int64_t t = int64_t{seqs} * nodes;
  Buffer<bf16> q(rng.normals_bf16(t * s.heads * s.head_dim)), y(t * s.heads * s.head_dim);
  const int64_t scales = s.is_byte() ? rows * s.kv_heads : 0;
  Buffer<float> k_scale(std::vector<float>(static_cast<size_t>(scales * sets), 0.01f));
  Buffer<float> v_scale(std::vector<float>(static_cast<size_t>(scales * sets), 0.01f));
  const auto args = [&](int set) {
    FlashAttentionDecodeArgs a{};
    std::byte* const base = cache.data() + bytes * static_cast<size_t>(set);
    a.q = q.data();
    a.cache = {base,
               base + element * static_cast<size_t>(tokens * s.head_dim),
               2 * tokens * width,
               2 * tokens * s.head_dim,
               s.head_dim,
               s.page_tokens ? d_table.data() : nullptr,
               pages,
               s.page_tokens,
               s.type,
               k_scale.data() + scales * set,
               v_scale.data() + scales * set,
               s.kv_heads * tokens,
               tokens,
               1};
    a.y = y.data();
    a.q_stride = a.y_stride = s.heads * s.head_dim;
    a.sequences = {d_first.data(), d_length.data(), nullptr, d_position.data(), d_parent.data(), seqs, t,
                   s.max_tokens};
    a.heads = s.heads;
    a.kv_heads = s.kv_heads;
    a.head_dim = s.head_dim;
    a.scale = scale_of(s);
    return a;
  };
  WorkspaceBuffer workspace(flash_attention_decode_workspace(args(0)));
  const Timing timing = time_graph(
      sets, [&](cudaStream_t stream, int set) { flash_attention_decode(args(set), workspace, stream); });
  const std::string label = std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) + " d" +
                            std::to_string(s.head_dim) + " B" + std::to_string(seqs) + " ctx " +
                            std::to_string(ctx) + (nodes > 1 ? " nodes " + std::to_string(nodes) : "") +
                            (s.page_tokens ? " page " + std::to_string(s.page_tokens) : " contiguous") +
                            (s.type == KvType::f8 ? " f8"
                             : s.is_byte()        ? " i8"
                                                  : "");
  report.measured({"flash_attention_decode", label, timing.median_ms, timing.p5_ms, timing.p95_ms,
                   read / timing.median_ms * 1e-6, "gb_s", ceilings().read_gb_s});
}

void bench(Report& report) {
  // beside each other, so that a cache of 8 bits meets the bf16 of the same minute
  for (const int32_t page : {0, 16}) {
    for (const auto& [seqs, ctx] : {std::pair{1, 8192}, {1, 32768}, {1, 131072}, {16, 8192}, {64, 4096}})
      for (const KvType type : {KvType::bf16, KvType::f8, KvType::i8})
        bench_shape(report, Shape{32, 8, 128, page}.with(type), seqs, ctx, 1);
  }
  for (const KvType type : {KvType::f8, KvType::i8}) {
    bench_shape(report, Shape{32, 8, 128, 16}.with(type), 1, 8192, 8);
    bench_shape(report, Shape{32, 8, 64, 16}.with(type), 1, 32768, 1);
    bench_shape(report, Shape{16, 8, 256, 16}.with(type), 1, 32768, 1);
  }
  for (const int32_t page : {0, 16, 32}) {
    const Shape s{32, 8, 128, page};
    bench_shape(report, s, 1, 1024, 1);
    if (page != 32) continue;
    for (const int ctx : {8192, 32768, 131072}) bench_shape(report, s, 1, ctx, 1);
    bench_shape(report, s, 16, 8192, 1);
    bench_shape(report, s, 64, 4096, 1);
  }
  const Shape s{32, 8, 128, 16};
  for (const int nodes : {4, 8, 16, 64}) bench_shape(report, s, 1, 8192, nodes);
  bench_shape(report, s, 16, 8192, 4);
  bench_shape(report, {32, 8, 64, 16}, 1, 32768, 1);
  bench_shape(report, {24, 8, 96, 16}, 1, 32768, 1);
  bench_shape(report, {16, 8, 256, 16}, 1, 32768, 1);
  bench_shape(report, {32, 32, 128, 16}, 1, 8192, 1);
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  namespace driver = crosscurrent::cuda::driver;
  return driver::main(argc, argv, driver::check, driver::bench);
}
