// Checks that every op with a state must pass, bit for bit: cuts of the prompt, both classes, chains, trees,
// rollback, fork, batch mates, threads and levels.
//
//   StateOp op{...};
//   check_exact(op);  // plain decoding is the measure of everything else
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "harness.h"
#include "native/cpu/context.h"
#include "native/cpu/isa.h"
#include "native/tensor.h"
#include "step_builder.h"

namespace crosscurrent::test {

// Numbers in [-1, 1), the same on every machine.
class Noise {
 public:
  explicit Noise(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  float next() {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<int32_t>(state_ >> 32)) / 2147483648.0f;
  }
  int below(int count) { return static_cast<int>((next() + 1) / 2 * static_cast<float>(count)) % count; }
  std::vector<float> list(int64_t count, float scale = 1, float offset = 0) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = offset + scale * next();
    return values;
  }

 private:
  uint64_t state_;
};

inline Tensor tensor(std::vector<float>& values, std::vector<int64_t> dims) {
  Tensor view;
  view.data = reinterpret_cast<std::byte*>(values.data());
  view.rank = static_cast<int32_t>(dims.size());
  view.row_stride = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    view.dims[i] = dims[i];
    if (i > 0) view.row_stride *= dims[i];
  }
  return view;
}

// Columns of a wider buffer.
inline Tensor columns(const Tensor& wide, int64_t first, int64_t count) {
  Tensor view = wide;
  view.data += first * static_cast<int64_t>(sizeof(float));
  view.dims[1] = count;
  return view;
}

constexpr int kVocab = 64;
constexpr int kSlots = 8;
constexpr int kWindow = 16;
constexpr int64_t kPad = 3;  // floats between rows of inputs and outputs
constexpr float kSentinel = 12345.0f;

struct StateOp {
  int64_t in, out;            // floats of a token
  int64_t elements, pending;  // of the state
  StateKind kind;
  std::function<void(const Tensor& in, const Tensor& out, const StateView& state, cpu::Context& context)> run;
  std::vector<float> tokens = {};  // [kVocab, in]; what a token id feeds the op
};

struct Setting {
  int threads = 1;
  bool has_mates = false;
};

// The op with its slots; what no test wrote is NaN, so that reading it shows.
class Machine {
 public:
  explicit Machine(const StateOp& op, Setting setting = {})
      : op_(op),
        setting_(setting),
        committed_(static_cast<size_t>(kSlots * op.elements), std::numeric_limits<float>::quiet_NaN()),
        pending_(static_cast<size_t>(kSlots * kWindow * op.pending),
                 std::numeric_limits<float>::quiet_NaN()) {}

  // Outputs of the sequence's tokens, [t, out].
  std::vector<float> run(StepClass kind, SequenceInput sequence) {
    std::vector<SequenceInput> all;
    if (setting_.has_mates) all = {fresh(6, 3), fresh(7, 1)};
    const size_t before = all.size();
    all.push_back(sequence);
    if (setting_.has_mates) all.push_back(fresh(5, 5));
    StepLimits limits = kTestLimits;
    limits.window = kWindow;
    BuiltStep built = build_step(kind, all, limits);
    const Step& step = built.step;

    const int64_t in = op_.in + kPad, out = op_.out + kPad;
    std::vector<float> x(static_cast<size_t>(step.t * in), std::numeric_limits<float>::quiet_NaN());
    std::vector<float> y(static_cast<size_t>(step.t * out), kSentinel);
    for (int i = 0; i < step.t; ++i)
      std::memcpy(x.data() + i * in, op_.tokens.data() + step.ids[static_cast<size_t>(i)] * op_.in,
                  static_cast<size_t>(op_.in) * sizeof(float));
    cpu::Workspace workspace;
    cpu::Context context{step, workspace, setting_.threads, cpu::Precision::exact};
    op_.run(columns(tensor(x, {step.t, in}), 0, op_.in), columns(tensor(y, {step.t, out}), 0, op_.out),
            view(), context);

    for (int i = 0; i < step.t; ++i)
      for (int64_t j = op_.out; j < out; ++j)
        expect_equal(y[static_cast<size_t>(i * out + j)], kSentinel, "float after an output row");
    std::vector<float> result;
    for (int i = step.first[before]; i < step.first[before + 1]; ++i)
      result.insert(result.end(), y.begin() + i * out, y.begin() + i * out + op_.out);
    return result;
  }

  void copy_slot(int from, int to) {
    std::copy_n(view().slot(from), op_.elements, view().slot(to));
    std::copy_n(view().pending_row(from, 0), kWindow * op_.pending, view().pending_row(to, 0));
  }
  std::vector<float> committed(int slot) { return {view().slot(slot), view().slot(slot) + op_.elements}; }

 private:
  SequenceInput fresh(int slot, int tokens) {
    SequenceInput sequence{.slot = slot, .ids = {}};
    for (int i = 0; i < tokens; ++i) sequence.ids.push_back(noise_.below(kVocab));
    return sequence;
  }
  StateView view() {
    StateView state;
    state.kind = op_.kind;
    state.committed = committed_.data();
    state.pending = pending_.data();
    state.elements = op_.elements;
    state.pending_elements = op_.pending;
    state.window = kWindow;
    return state;
  }

  const StateOp& op_;
  Setting setting_;
  std::vector<float> committed_, pending_;
  Noise noise_{99};
};

// One sequence in a slot, as a scheduler would drive it.
struct Sequence {
  Machine* machine;
  int slot = 2;
  int length = 0;
  std::vector<int32_t> accepted = {};

  std::vector<float> prefill(std::vector<int32_t> ids) {
    const int tokens = static_cast<int>(ids.size());
    auto y = machine->run(StepClass::prefill,
                          {.slot = slot, .length = length, .ids = std::move(ids), .accepted = accepted});
    length += static_cast<int>(accepted.size()) + tokens;
    accepted = {};
    return y;
  }
  std::vector<float> decode(std::vector<int32_t> ids, std::vector<int32_t> parents,
                            std::vector<int32_t> accept) {
    auto y = machine->run(StepClass::decode, {.slot = slot,
                                              .length = length,
                                              .ids = std::move(ids),
                                              .parents = std::move(parents),
                                              .accepted = accepted});
    length += static_cast<int>(accepted.size());
    accepted = std::move(accept);
    return y;
  }
  // The state after all that was accepted.
  std::vector<float> state() {
    decode({0}, {}, {});
    return machine->committed(slot);
  }
};

inline std::vector<int32_t> some_ids(int count, uint64_t seed) {
  Noise noise(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(noise.below(kVocab));
  return ids;
}

inline void expect_same(const std::vector<float>& got, const std::vector<float>& expected,
                        const std::string& what) {
  expect_equal(got.size(), expected.size(), what + ": size");
  for (size_t i = 0; i < got.size(); ++i)
    if (std::memcmp(&got[i], &expected[i], sizeof(float)) != 0)
      expect_equal(got[i], expected[i], what + ": element " + std::to_string(i));
}

inline std::vector<float> slice(const std::vector<float>& rows, int64_t first, int64_t count, int64_t width) {
  return {rows.begin() + first * width, rows.begin() + (first + count) * width};
}

struct Plain {
  std::vector<int32_t> ids;
  std::vector<float> y, state;
};

// Token by token in decode class, alone, on one thread.
inline Plain decode_plainly(const StateOp& op, std::vector<int32_t> ids) {
  Machine machine(op);
  Sequence sequence{&machine};
  Plain plain{ids, {}, {}};
  for (const int32_t id : ids) {
    const auto y = sequence.decode({id}, {}, {0});
    plain.y.insert(plain.y.end(), y.begin(), y.end());
  }
  plain.state = sequence.state();
  return plain;
}

inline void check_prefill(const StateOp& op, Setting setting, const Plain& plain) {
  const int all = static_cast<int>(plain.ids.size());
  for (const std::vector<int>& pieces :
       {std::vector<int>{all}, {1, 5, 16, all - 22}, std::vector<int>(all, 1)}) {
    Machine machine(op, setting);
    Sequence sequence{&machine};
    std::vector<float> y;
    for (int at = 0; const int count : pieces) {
      const auto part = sequence.prefill({plain.ids.begin() + at, plain.ids.begin() + at + count});
      y.insert(y.end(), part.begin(), part.end());
      at += count;
    }
    const std::string what = "prefill in " + std::to_string(pieces.size());
    expect_same(y, plain.y, what);
    expect_same(machine.committed(sequence.slot), plain.state, what + ": state");
  }
}

// Chains with the right ids in front and wrong ones behind; `right` of each are accepted, none at all in some
// steps.
inline void check_chains(const StateOp& op, Setting setting, const Plain& plain) {
  Machine machine(op, setting);
  Sequence sequence{&machine};
  sequence.prefill({plain.ids.begin(), plain.ids.begin() + 4});
  int at = 4;
  const int all = static_cast<int>(plain.ids.size());
  for (int round = 0; at < all; ++round) {
    const int right = std::min(round % 5, all - at), wrong = round * 7 % 4 + (right == 0);
    std::vector<int32_t> ids(plain.ids.begin() + at, plain.ids.begin() + at + right), accept;
    for (int i = 0; i < right; ++i) accept.push_back(i);
    for (int i = 0; i < wrong; ++i) ids.push_back((at * 5 + i) % kVocab);
    const auto y = sequence.decode(ids, {}, accept);
    expect_same(slice(y, 0, right, op.out), slice(plain.y, at, right, op.out),
                "chain at " + std::to_string(at));
    at += right;
  }
  expect_same(sequence.state(), plain.state, "state after chains");
}

struct Tree {
  std::vector<int32_t> parents;
  std::vector<int32_t> path;  // the right nodes
};

inline const std::vector<Tree>& trees() {
  static const std::vector<Tree> list = {
      {{-1, -1, 0, 0, 3, 3, 1, 2}, {0, 3, 5}}, {{-1, -1, 0, 1, 3, 2, 4}, {1, 3, 4, 6}},
      {{-1, 0, 1, 2, -1, 4}, {4, 5}},          {{-1, -1, -1}, {2}},
      {{-1, 0, 0, 2, 2, 4, 1}, {0}},
  };
  return list;
}

inline void check_trees(const StateOp& op, Setting setting, const Plain& plain) {
  Machine machine(op, setting);
  Sequence sequence{&machine};
  const int all = static_cast<int>(plain.ids.size());
  int at = 0;
  for (size_t round = 0; at < all; ++round) {
    const Tree& tree = trees()[round % trees().size()];
    const int right = std::min(static_cast<int>(tree.path.size()), all - at);
    std::vector<int32_t> ids;
    for (size_t i = 0; i < tree.parents.size(); ++i)
      ids.push_back(static_cast<int32_t>((i * 11 + round) % kVocab));
    for (int i = 0; i < right; ++i)
      ids[static_cast<size_t>(tree.path[static_cast<size_t>(i)])] = plain.ids[static_cast<size_t>(at + i)];
    const std::vector<int32_t> path(tree.path.begin(), tree.path.begin() + right);
    const auto y = sequence.decode(ids, tree.parents, path);
    for (int i = 0; i < right; ++i)
      expect_same(slice(y, path[static_cast<size_t>(i)], 1, op.out), slice(plain.y, at + i, 1, op.out),
                  "tree at " + std::to_string(at + i));
    at += right;
  }
  expect_same(sequence.state(), plain.state, "state after trees");
}

// Every node of a tree, right or wrong, has the output of plain decoding along its path.
inline void check_all_nodes(const StateOp& op, const std::vector<int32_t>& prompt) {
  const Tree& tree = trees()[0];
  const auto ids = some_ids(static_cast<int>(tree.parents.size()), 21);
  Machine machine(op);
  Sequence sequence{&machine};
  sequence.prefill(prompt);
  const auto y = sequence.decode(ids, tree.parents, {});
  for (size_t node = 0; node < ids.size(); ++node) {
    std::vector<int32_t> path;
    for (int i = static_cast<int>(node); i >= 0; i = tree.parents[static_cast<size_t>(i)])
      path.insert(path.begin(), ids[static_cast<size_t>(i)]);
    path.insert(path.begin(), prompt.begin(), prompt.end());
    const auto expected = decode_plainly(op, path).y;
    expect_same(slice(y, static_cast<int64_t>(node), 1, op.out),
                slice(expected, static_cast<int64_t>(path.size()) - 1, 1, op.out),
                "node " + std::to_string(node));
  }
}

// Partial accept, then a step without drafts.
inline void check_rollback(const StateOp& op) {
  const auto ids = some_ids(9, 31);
  for (int right = 0; right <= 4; ++right) {
    Machine machine(op);
    Sequence sequence{&machine};
    sequence.prefill({ids.begin(), ids.begin() + 3});
    std::vector<int32_t> accept;
    for (int i = 0; i < right; ++i) accept.push_back(i);
    sequence.decode({ids[3], ids[4], ids[5], ids[6]}, {}, accept);
    const auto y = sequence.decode({ids[8]}, {}, {0});
    std::vector<int32_t> kept(ids.begin(), ids.begin() + 3 + right);
    kept.push_back(ids[8]);
    const Plain plain = decode_plainly(op, kept);
    expect_same(y, slice(plain.y, 3 + right, 1, op.out), "after " + std::to_string(right) + " accepted");
    expect_same(sequence.state(), plain.state, "state after " + std::to_string(right) + " accepted");
  }
}

// A copied slot goes another way; neither notices the other.
inline void check_fork(const StateOp& op) {
  const auto ids = some_ids(6, 41);
  Machine machine(op);
  Sequence one{&machine};
  one.prefill({ids[0], ids[1]});
  one.decode({ids[2], ids[3]}, {-1, -1}, {0});
  Sequence two = one;
  two.slot = 4;
  two.accepted = {1};
  machine.copy_slot(one.slot, two.slot);
  const auto y1 = one.decode({ids[4]}, {}, {0}), y2 = two.decode({ids[5]}, {}, {0});
  const Plain plain1 = decode_plainly(op, {ids[0], ids[1], ids[2], ids[4]});
  const Plain plain2 = decode_plainly(op, {ids[0], ids[1], ids[3], ids[5]});
  expect_same(y1, slice(plain1.y, 3, 1, op.out), "forked from");
  expect_same(y2, slice(plain2.y, 3, 1, op.out), "fork");
  expect_same(one.state(), plain1.state, "state forked from");
  expect_same(two.state(), plain2.state, "state of the fork");
}

// body() at each level that this machine has.
inline void at_each_level(const std::function<void()>& body) {
  struct Restore {
    ~Restore() { cpu::set_isa(std::nullopt); }
  } restore;
  for (const cpu::Isa isa : cpu::available_isas()) {
    cpu::set_isa(isa);
    body();
  }
}

inline void check_exact(const StateOp& op) {
  at_each_level([&] {
    const Plain plain = decode_plainly(op, some_ids(37, 11));
    for (const Setting setting : {Setting{1, false}, {2, false}, {2, true}}) {
      check_prefill(op, setting, plain);
      check_chains(op, setting, plain);
      check_trees(op, setting, plain);
    }
    check_all_nodes(op, {plain.ids.begin(), plain.ids.begin() + 5});
    check_rollback(op);
    check_fork(op);
  });
}

// Outputs and state of one prompt in one prefill step, against f64 values.
inline void check_close(const std::vector<float>& got, const std::vector<double>& expected, double tolerance,
                        const std::string& what) {
  expect_equal(got.size(), expected.size(), what + ": size");
  double scale = 0;
  for (const double value : expected) scale = std::max(scale, std::abs(value));
  for (size_t i = 0; i < got.size(); ++i)
    if (!(std::abs(got[i] - expected[i]) <= tolerance * std::max(1.0, scale)))
      expect_equal(static_cast<double>(got[i]), expected[i], what + ": element " + std::to_string(i));
}

}  // namespace crosscurrent::test
