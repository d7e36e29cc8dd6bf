// Decode steps of ssd, selective_scan and causal_conv1d: `ssm_step_driver check | bench [--json FILE]`
//
// The check plays sessions: tokens decoded one at a time, alone, and the same tokens drafted in chains and
// trees among false ones, in batches, with any part of the path accepted. Outputs and final states must have
// the same bits.
//
// Longer than 400 lines: cases, reference, checks and timing of a family are one program.
#include <algorithm>
#include <cmath>
#include <memory>

#include "../causal_conv1d.h"
#include "../ssm_step.h"
#include "elements.h"

namespace crosscurrent::cuda::driver {
namespace {

constexpr uint64_t kSeed = 20251126;

struct Pointers {    // of one launch
  const void* rows;  // [t, token]
  void* y;           // [t, width]
  float* state;
  PendingRows pending;
  DecodeSequences sequences;
  Workspace workspace;
};

// An op with a recurrent state: its inputs are one row a token.
struct Op {
  std::string name;
  int64_t token, width, state, pending;  // elements of: inputs, y, committed and pending
  std::function<void(const Pointers&, cudaStream_t)> launch;
  std::function<void(const float* row, double* state, double* y)> reference;  // one token
  std::vector<float> scales;                                                  // of the inputs, one a column
};

// Column `offset` of the rows.
template <class T>
const void* column(const Pointers& p, int64_t offset) {
  return static_cast<const T*>(p.rows) + offset;
}

template <class T>
Op ssd_op(Rng& rng, int64_t heads, int64_t head_dim, int64_t groups, int64_t states) {
  struct Weights {
    std::vector<float> host_bias, host_a, host_d;
    Buffer<float> bias, a, d;
  };
  auto host_a = rng.uniforms(heads, 0, 2.7);
  for (float& v : host_a) v = -std::exp(v);
  auto bias = rng.uniforms(heads, -6, -1), d = rng.normals(heads);
  auto w = std::make_shared<Weights>(
      Weights{bias, host_a, d, Buffer<float>(bias), Buffer<float>(host_a), Buffer<float>(d)});
  const int64_t dim = heads * head_dim, wide = groups * states, token = dim + heads + 2 * wide;
  Op op{"ssd " + std::to_string(heads) + "x" + std::to_string(head_dim) + "x" + std::to_string(states) +
            " g" + std::to_string(groups),
        token,
        dim,
        dim * states,
        dim + heads + wide,
        {},
        {},
        {}};
  const float low = 0.002f, high = 0.8f;
  op.launch = [=](const Pointers& p, cudaStream_t stream) {
    const SsdStepArgs args{kDtype<T>,
                           column<T>(p, 0),
                           column<T>(p, dim),
                           w->bias.data(),
                           w->a.data(),
                           column<T>(p, dim + heads),
                           column<T>(p, dim + heads + wide),
                           w->d.data(),
                           p.state,
                           p.pending,
                           p.y,
                           token,
                           token,
                           token,
                           token,
                           dim,
                           p.sequences,
                           heads,
                           head_dim,
                           groups,
                           states,
                           low,
                           high};
    ssd_step(args, p.workspace, stream);
  };
  op.reference = [=](const float* row, double* state, double* y) {
    const float *x = row, *dt = row + dim, *b = dt + heads, *c = b + wide;
    for (int64_t h = 0; h < heads; ++h) {
      const double delta = std::clamp(log1p_exp(double{dt[h]} + w->host_bias[h]), double{low}, double{high});
      const double decay = std::exp(delta * w->host_a[h]);
      const int64_t from = h * groups / heads * states;
      for (int64_t i = h * head_dim; i < (h + 1) * head_dim; ++i) {
        y[i] = double{w->host_d[h]} * x[i];
        for (int64_t n = 0; n < states; ++n) {
          double& s = state[i * states + n];
          s = decay * s + delta * x[i] * b[from + n];
          y[i] += s * c[from + n];
        }
      }
    }
  };
  op.scales.assign(static_cast<size_t>(token), 1.0f);
  return op;
}

template <class T>
Op scan_op(Rng& rng, int64_t channels, int64_t states, bool has_z) {
  struct Weights {
    std::vector<float> host_bias, host_a, host_d;
    Buffer<float> bias, a, d;
  };
  auto host_a = rng.uniforms(channels * states, 0, 2.7);
  for (float& v : host_a) v = -std::exp(v);
  auto bias = rng.uniforms(channels, -6, -1), d = rng.normals(channels);
  auto w = std::make_shared<Weights>(
      Weights{bias, host_a, d, Buffer<float>(bias), Buffer<float>(host_a), Buffer<float>(d)});
  const int64_t token = 3 * channels + 2 * states;  // x, dt, z, b, c
  Op op{"scan " + std::to_string(channels) + "x" + std::to_string(states),
        token,
        channels,
        channels * states,
        2 * channels + states,
        {},
        {},
        {}};
  op.launch = [=](const Pointers& p, cudaStream_t stream) {
    const SelectiveScanStepArgs args{kDtype<T>,
                                     column<T>(p, 0),
                                     column<T>(p, channels),
                                     w->bias.data(),
                                     w->a.data(),
                                     column<T>(p, 3 * channels),
                                     column<T>(p, 3 * channels + states),
                                     w->d.data(),
                                     has_z ? column<T>(p, 2 * channels) : nullptr,
                                     p.state,
                                     p.pending,
                                     p.y,
                                     token,
                                     token,
                                     token,
                                     token,
                                     token,
                                     channels,
                                     p.sequences,
                                     channels,
                                     states};
    selective_scan_step(args, p.workspace, stream);
  };
  op.reference = [=](const float* row, double* state, double* y) {
    const float *x = row, *dt = row + channels, *z = dt + channels, *b = z + channels, *c = b + states;
    for (int64_t i = 0; i < channels; ++i) {
      const double delta = log1p_exp(double{dt[i]} + w->host_bias[i]);
      y[i] = double{w->host_d[i]} * x[i];
      for (int64_t n = 0; n < states; ++n) {
        double& h = state[i * states + n];
        h = std::exp(delta * w->host_a[i * states + n]) * h + delta * x[i] * b[n];
        y[i] += h * c[n];
      }
      if (has_z) y[i] *= z[i] * sigmoid(z[i]);
    }
  };
  op.scales.assign(static_cast<size_t>(token), 1.0f);
  return op;
}

template <class T>
Op conv_op(Rng& rng, int64_t channels, int kernel, bool has_bias) {
  struct Weights {
    std::vector<float> host_weight, host_bias;
    Buffer<float> weight, bias;
  };
  const auto weight = rng.normals(channels * kernel, 0.5), bias = rng.normals(channels);
  auto w = std::make_shared<Weights>(Weights{weight, bias, Buffer<float>(weight), Buffer<float>(bias)});
  const int64_t kept = kernel - 1;
  Op op{"conv " + std::to_string(channels) + " k" + std::to_string(kernel),
        channels,
        channels,
        kept * channels,
        channels,
        {},
        {},
        {}};
  op.launch = [=](const Pointers& p, cudaStream_t stream) {
    causal_conv1d_step({kDtype<T>, p.rows, w->weight.data(), has_bias ? w->bias.data() : nullptr, p.state,
                        p.y, channels, channels, channels, kernel, ConvActivation::silu},
                       p.pending, p.sequences, stream);
  };
  op.reference = [=](const float* x, double* window, double* y) {
    for (int64_t i = 0; i < channels; ++i) {
      double sum = has_bias ? w->host_bias[i] : 0;
      for (int64_t j = 0; j < kernel; ++j)
        sum += w->host_weight[i * kernel + j] * (j < kept ? window[j * channels + i] : x[i]);
      y[i] = sum * sigmoid(sum);
      for (int64_t j = 0; j + 1 < kept; ++j) window[j * channels + i] = window[(j + 1) * channels + i];
      window[(kept - 1) * channels + i] = x[i];
    }
  };
  op.scales.assign(static_cast<size_t>(channels), 1.0f);
  return op;
}

// One sequence's part of a step.
struct Draft {
  std::vector<int32_t> accepted;  // pending nodes
  std::vector<int32_t> parent;    // within the sequence
  std::vector<float> rows;        // [nodes, token]
};

// Slots of one op on the device; slot s + 1 belongs to sequence s.
template <class T>
class Session {
 public:
  static constexpr int kWindow = 16;
  Session(const Op& op, int seqs, const std::vector<float>& garbage)
      : op_(op),
        state_((seqs + 1) * op.state),
        pending_((seqs + 1) * kWindow * op.pending),
        workspace_(sizeof(uint32_t) * static_cast<size_t>(seqs)),
        length_(static_cast<size_t>(seqs), 0) {
    std::vector<float> fill(static_cast<size_t>(state_.size()));
    for (size_t i = 0; i < fill.size(); ++i) fill[i] = garbage[i % garbage.size()];
    state_.upload(fill);
  }

  // y of all nodes, sequence after sequence.
  std::vector<T> step(const std::vector<Draft>& drafts) {
    std::vector<int32_t> first{0}, slot, parent, accepted_first{0}, accepted;
    std::vector<float> rows;
    for (size_t s = 0; s < drafts.size(); ++s) {
      const Draft& d = drafts[s];
      for (const int32_t p : d.parent) parent.push_back(p < 0 ? -1 : first.back() + p);
      rows.insert(rows.end(), d.rows.begin(), d.rows.end());
      accepted.insert(accepted.end(), d.accepted.begin(), d.accepted.end());
      first.push_back(static_cast<int32_t>(parent.size()));
      accepted_first.push_back(static_cast<int32_t>(accepted.size()));
      slot.push_back(static_cast<int32_t>(s) + 1);
    }
    const auto t = static_cast<int64_t>(parent.size());
    Buffer<int32_t> d_first(first), d_slot(slot), d_length(length_), d_parent(parent),
        d_accepted_first(accepted_first), d_accepted(accepted);
    Buffer<T> d_rows(as_type<T>(rows)), y(t * op_.width);
    op_.launch({d_rows.data(),
                y.data(),
                state_.data(),
                {pending_.data(), kWindow},
                {d_first.data(), d_slot.data(), d_length.data(), d_parent.data(), d_accepted_first.data(),
                 d_accepted.data(), static_cast<int32_t>(drafts.size()), t},
                workspace_},
               nullptr);
    for (size_t s = 0; s < drafts.size(); ++s) length_[s] += static_cast<int32_t>(drafts[s].accepted.size());
    const auto out = y.download();
    intact_ = intact_ && y.intact() && state_.intact() && pending_.intact() && workspace_.intact();
    return out;
  }
  std::vector<float> state(int seq) const {
    const auto all = state_.download();
    return {all.begin() + (seq + 1) * op_.state, all.begin() + (seq + 2) * op_.state};
  }
  bool intact() const { return intact_; }

 private:
  const Op& op_;
  Buffer<float> state_, pending_;
  WorkspaceBuffer workspace_;
  std::vector<int32_t> length_;
  bool intact_ = true;
};

// A tree of `nodes` in which `path` holds true tokens, one the parent of the next. Parents come before
// children.
struct Tree {
  std::vector<int32_t> parent, path;
};

Tree grow(Rng& rng, int nodes, int depth, bool chain) {
  Tree tree;
  for (int i = 0; i < nodes; ++i) {
    const int left = nodes - i, wanted = depth - static_cast<int>(tree.path.size());
    const bool is_true = wanted > 0 && (chain || left <= wanted || rng.below(2) == 0);
    if (is_true) {
      tree.parent.push_back(tree.path.empty() ? -1 : tree.path.back());
      tree.path.push_back(i);
    } else {
      tree.parent.push_back(chain ? i - 1 : static_cast<int32_t>(rng.below(i + 1)) - 1);
    }
  }
  return tree;
}

template <class T>
void check_op(Report& report, Rng& rng, const Op& op, double tolerance) {
  const int seqs = 3, tokens = report.small() ? 7 : 23;
  const auto random_row = [&] {
    auto row = rng.normals(op.token);
    for (size_t i = 0; i < row.size(); ++i) row[i] *= op.scales[i];
    return rounded<T>(row);
  };
  const auto garbage = rng.normals(997);
  std::vector<std::vector<std::vector<float>>> truth(seqs);  // [seq][token] row
  for (auto& rows : truth)
    for (int i = 0; i < tokens; ++i) rows.push_back(random_row());

  // plain decoding, each sequence alone
  std::vector<std::vector<T>> plain(seqs);
  std::vector<std::vector<float>> final_state(seqs);
  for (int s = 0; s < seqs; ++s) {
    Session<T> session(op, 1, garbage);
    for (int i = 0; i < tokens; ++i) {
      const auto y =
          session.step({{i == 0 ? std::vector<int32_t>{} : std::vector<int32_t>{0}, {-1}, truth[s][i]}});
      plain[s].insert(plain[s].end(), y.begin(), y.end());
    }
    session.step({{{0}, {}, {}}});
    final_state[s] = session.state(0);
    report.expect(session.intact(), op.name + ": sentinels");
    std::vector<double> state(static_cast<size_t>(op.state), 0.0), y(static_cast<size_t>(op.width * tokens));
    for (int i = 0; i < tokens; ++i) op.reference(truth[s][i].data(), state.data(), y.data() + i * op.width);
    report.compare(op.name + " plain y", plain[s], y,
                   {.absolute = 2 * tolerance, .relative = tolerance, .norm = tolerance});
    report.compare(op.name + " plain state", final_state[s], state,
                   {.absolute = 2e-5, .relative = 2e-5, .norm = 1e-5});
  }

  // the same tokens, drafted together
  for (const bool chain : {true, false}) {
    const std::string what = op.name + (chain ? " chain" : " tree");
    Session<T> session(op, seqs, garbage);
    std::vector<int> done(seqs, 0);
    std::vector<std::vector<int32_t>> accept(seqs);
    bool same = true;
    for (int step = 0; step < 200; ++step) {
      std::vector<Draft> drafts(seqs);
      std::vector<Tree> trees(seqs);
      bool more = false;
      for (int s = 0; s < seqs; ++s) {
        Draft& d = drafts[s];
        d.accepted = accept[s];
        const int left = tokens - done[s];
        if (left > 0) {
          const int nodes = step % 7 == 3 && s == 1 ? 0 : 1 + static_cast<int>(rng.below(16));
          trees[s] =
              grow(rng, nodes, std::min(left, 1 + static_cast<int>(rng.below(std::max(1, nodes)))), chain);
        }
        if (static_cast<int>(trees[s].path.size()) > static_cast<int>(trees[s].parent.size())) trees[s] = {};
        d.parent = trees[s].parent;
        for (size_t i = 0, next = 0; i < d.parent.size(); ++i) {
          const bool is_true = next < trees[s].path.size() && trees[s].path[next] == static_cast<int32_t>(i);
          const auto row = is_true ? truth[s][done[s] + static_cast<int>(next++)] : random_row();
          d.rows.insert(d.rows.end(), row.begin(), row.end());
        }
        more = more || left > 0 || !d.accepted.empty();
      }
      if (!more) break;
      const auto y = session.step(drafts);
      int64_t node0 = 0;
      for (int s = 0; s < seqs; ++s) {
        const auto& path = trees[s].path;
        for (size_t i = 0; i < path.size(); ++i)
          same = same && std::memcmp(y.data() + (node0 + path[i]) * op.width,
                                     plain[s].data() + (done[s] + static_cast<int64_t>(i)) * op.width,
                                     sizeof(T) * static_cast<size_t>(op.width)) == 0;
        node0 += static_cast<int64_t>(trees[s].parent.size());
        const auto kept =
            static_cast<size_t>(path.empty() ? 0 : rng.below(static_cast<int64_t>(path.size()) + 1));
        accept[s].assign(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(kept));
        done[s] += static_cast<int>(kept);
      }
    }
    report.expect(same, what + ": outputs are not those of plain decoding");
    for (int s = 0; s < seqs; ++s) {
      report.expect(done[s] == tokens, what + ": the session ended early");
      report.same_bits(what + " state", session.state(s), final_state[s]);
    }
    report.expect(session.intact(), what + ": sentinels");
  }
}

void check_errors(Report& report) {
  SsdStepArgs args{};
  args.dtype = DType::bf16;
  args.heads = args.groups = 2, args.head_dim = 8, args.states = 16;
  args.pending.window = 16;
  args.sequences.seqs = 1, args.sequences.t = 1;
  const auto bad = [&](const char* words, auto change) {
    SsdStepArgs changed = args;
    change(changed);
    report.expect_error(std::string("ssd_step error ") + words, Code::invalid_argument, words,
                        [&] { ssd_step(changed, {}, nullptr); });
  };
  bad("x", [](auto&) {});
  bad("dtype", [](auto& a) { a.dtype = DType::i8; });
  bad("groups", [](auto& a) { a.groups = 3; });
  bad("states", [](auto& a) { a.states = 257; });
  bad("t", [](auto& a) { a.sequences.t = 17; });
  bad("window", [](auto& a) { a.pending.window = 17; });
  SsdStepArgs none = args;
  none.sequences.seqs = 0, none.sequences.t = 0;
  ssd_step(none, {}, nullptr);

  Buffer<float> some(4096);
  SelectiveScanStepArgs scan{};
  scan.dtype = DType::f32;
  scan.channels = 8, scan.states = 16;
  scan.pending = {some.data(), 16};
  scan.sequences.seqs = 1;
  scan.dt_bias = scan.a = scan.d = some.data();
  scan.h = some.data();
  const auto* ints = reinterpret_cast<const int32_t*>(some.data());
  scan.sequences.first = scan.sequences.slot = scan.sequences.length = scan.sequences.accepted_first = ints;
  report.expect_error("scan step workspace", Code::invalid_argument, "workspace",
                      [&] { selective_scan_step(scan, {}, nullptr); });
  scan.states = 17;
  report.expect_error("scan step states", Code::invalid_argument, "states",
                      [&] { selective_scan_step(scan, {}, nullptr); });
  CausalConv1dArgs conv{DType::bf16, some.data(), some.data(), nullptr, some.data(),         some.data() + 64,
                        8,           8,           8,           9,       ConvActivation::silu};
  report.expect_error("conv kernel", Code::invalid_argument, "kernel",
                      [&] { causal_conv1d(conv, {}, nullptr); });
  conv.kernel = 4;
  report.expect_error("conv window", Code::invalid_argument, "window",
                      [&] { causal_conv1d_step(conv, {some.data(), 17}, {}, nullptr); });
}

void check(Report& report) {
  Rng rng(kSeed);
  if (report.small()) {
    check_op<bf16>(report, rng, ssd_op<bf16>(rng, 2, 16, 1, 16), 5e-3);
    check_op<bf16>(report, rng, scan_op<bf16>(rng, 33, 16, true), 5e-3);
    check_op<bf16>(report, rng, conv_op<bf16>(rng, 20, 4, true), 5e-3);
    return;
  }
  check_op<bf16>(report, rng, ssd_op<bf16>(rng, 4, 64, 1, 128), 5e-3);
  check_op<float>(report, rng, ssd_op<float>(rng, 6, 16, 3, 64), 2e-5);
  check_op<bf16>(report, rng, ssd_op<bf16>(rng, 3, 7, 1, 5), 5e-3);
  check_op<float>(report, rng, ssd_op<float>(rng, 2, 65, 2, 256), 2e-5);
  check_op<float>(report, rng, ssd_op<float>(rng, 200, 64, 2, 128), 2e-5);  // the tile of many rows a thread
  check_op<bf16>(report, rng, scan_op<bf16>(rng, 40, 16, true), 5e-3);
  check_op<float>(report, rng, scan_op<float>(rng, 33, 16, false), 2e-5);
  check_op<float>(report, rng, scan_op<float>(rng, 1, 3, true), 2e-5);
  check_op<bf16>(report, rng, conv_op<bf16>(rng, 130, 4, true), 5e-3);
  check_op<float>(report, rng, conv_op<float>(rng, 7, 8, false), 2e-5);
  check_op<float>(report, rng, conv_op<float>(rng, 5, 2, true), 2e-5);
  check_errors(report);
}

// `nodes` new nodes a sequence, `accepted` of the same number pending; a chain, or a tree of which each node
// but the first hangs from one of the two before it.
void bench_case(Report& report, const Op& op, const char* kernel, const std::string& label, int seqs,
                int nodes, int accepted, bool tree) {
  Rng rng(kSeed);
  const double state_bytes = 4.0 * static_cast<double>(op.state) * seqs;
  const int sets = rotation(static_cast<size_t>(2 * state_bytes));
  std::vector<int32_t> first{0}, slot, length, parent, accepted_first{0}, accept;
  for (int s = 0; s < seqs; ++s) {
    for (int i = 0; i < nodes; ++i)
      parent.push_back(i == 0 ? -1 : first.back() + (tree && i > 1 && i % 2 == 0 ? i - 2 : i - 1));
    for (int i = 0; i < accepted; ++i) accept.push_back(i);
    first.push_back(first.back() + nodes);
    accepted_first.push_back(accepted_first.back() + accepted);
    slot.push_back(s), length.push_back(100);
  }
  const int64_t t = int64_t{seqs} * nodes;
  Buffer<int32_t> d_first(first), d_slot(slot), d_length(length), d_parent(parent),
      d_accepted_first(accepted_first), d_accepted(accept);
  Buffer<bf16> rows(to_bf16(rng.normals(t * op.token))), y(t * op.width);
  std::vector<Buffer<float>> states;
  Buffer<float> pending(int64_t{seqs} * 16 * op.pending);
  pending.upload(rng.normals(pending.size()));
  WorkspaceBuffer workspace(sizeof(uint32_t) * static_cast<size_t>(seqs));
  for (int i = 0; i < sets; ++i) {
    states.emplace_back(op.state * seqs);
    states.back().zero();
  }
  const Timing time =
      time_graph(sets,
                 [&](cudaStream_t stream, int i) {
                   op.launch({rows.data(),
                              y.data(),
                              states[static_cast<size_t>(i % sets)].data(),
                              {pending.data(), 16},
                              {d_first.data(), d_slot.data(), d_length.data(), d_parent.data(),
                               d_accepted_first.data(), d_accepted.data(), seqs, t},
                              workspace},
                             stream);
                 },
                 {.launches = 20, .samples = 100, .warm_up = 5});
  report.measured({kernel, label, time.median_ms, time.p5_ms, time.p95_ms,
                   2 * state_bytes / time.median_ms * 1e-6, "gb_s", ceilings().copy_gb_s});
}

void bench(Report& report) {
  Rng rng(kSeed);
  const Op ssd = ssd_op<bf16>(rng, 80, 64, 1, 128);
  const char* name = "ssd_step";
  for (const int seqs : {1, 8, 64, 256})
    bench_case(report, ssd, name, "H80 P64 N128 B" + std::to_string(seqs), seqs, 1, 1, false);
  bench_case(report, ssd, name, "H80 P64 N128 B64 no commit", 64, 1, 0, false);
  for (const int nodes : {2, 4, 8, 16}) {
    const std::string label = "H80 P64 N128 B64 " + std::to_string(nodes);
    bench_case(report, ssd, name, label + " chain, 1 accepted", 64, nodes, 1, false);
    bench_case(report, ssd, name, label + " chain, all accepted", 64, nodes, nodes, false);
    bench_case(report, ssd, name, label + " tree, 3 accepted", 64, nodes, std::min(3, nodes), true);
  }
  for (const int nodes : {1, 4, 8})
    bench_case(report, ssd, name, "H80 P64 N128 B1 " + std::to_string(nodes) + " chain", 1, nodes, 1, false);
  const Op nemotron = ssd_op<bf16>(rng, 128, 64, 8, 128);
  bench_case(report, nemotron, name, "H128 P64 N128 G8 B64", 64, 1, 1, false);
  const Op scan = scan_op<bf16>(rng, 5120, 16, true);
  for (const int seqs : {1, 64})
    bench_case(report, scan, "selective_scan_step", "D5120 N16 B" + std::to_string(seqs), seqs, 1, 1, false);
  bench_case(report, scan, "selective_scan_step", "D5120 N16 B64 4 chain", 64, 4, 4, false);
  const Op conv = conv_op<bf16>(rng, 5376, 4, true);
  bench_case(report, conv, "causal_conv1d_step", "D5376 k4 B64", 64, 1, 1, false);
}

}  // namespace
}  // namespace crosscurrent::cuda::driver

int main(int argc, char** argv) {
  using namespace crosscurrent::cuda::driver;
  return crosscurrent::cuda::driver::main(argc, argv, check, bench);
}
