// ssd: Δ = clamp(softplus(dt + dt_bias), dt_min, dt_max), S = exp(Δ a) S + Δ x bᵀ, y = S c + d x
//
// Sequential in time in both classes; vectors along the states. State of a slot: S [heads, head_dim, states];
// a pending row: x [heads, head_dim], dt [heads] as it came, b [groups, states].
#include <algorithm>

#include "../ops.gen.h"
#include "state_kernels.h"
#include "state_step.h"

namespace crosscurrent::cpu {
namespace {

constexpr int64_t kBlockFloats = 4096;  // of state, worked on through all tokens: half of L1

// Δ and decay of tokens, computed once for all rows of a head.
struct Gates {
  float *delta, *decay;  // [tokens, heads]
};

Gates compute_gates(const Ssd& a, const StateKernels& kernels, Workspace& workspace, int64_t tokens,
                    auto dt_row) {
  const Gates gates{workspace.take<float>(tokens * a.heads), workspace.take<float>(tokens * a.heads)};
  for (int64_t i = 0; i < tokens; ++i) {
    const SsdGates row{dt_row(i),
                       a.dt_bias.f32(),
                       a.a.f32(),
                       a.dt_min,
                       a.dt_max,
                       a.heads,
                       gates.delta + i * a.heads,
                       gates.decay + i * a.heads};
    kernels.ssd_gates(&row);
  }
  return gates;
}

// Rows [row, row + rows) of one head's state, of all sequences.
struct Block {
  const Ssd& a;
  const Step& step;
  const StateKernels& kernels;
  Gates fresh, accepted;  // of the step's tokens, of the accepted nodes
  float* scratch;         // [1 or tree nodes, rows, states]
  int64_t head, row, rows;

  SsdRows work(const Gates& gates, int64_t index, int64_t count, const float* from, float* to) const {
    SsdRows work{};
    work.delta = gates.delta + index * a.heads + head;
    work.decay = gates.decay + index * a.heads + head;
    work.delta_stride = a.heads;
    work.count = count;
    work.rows = rows;
    work.states = a.states;
    work.d = a.d.f32()[head];
    work.from = from;
    work.to = to;
    return work;
  }
  int64_t x_column() const { return head * a.head_dim + row; }
  int64_t group_column() const { return head * a.groups / a.heads * a.states; }

  void apply_accepted(int seq, float* state) const {
    int64_t index = step.accepted_first[seq];
    for_accepted(step, seq, [&](int node, int count) {
      SsdRows work = this->work(accepted, index, count, state, state);
      const float* pending = a.s.pending_row(step.slot[seq], node);
      work.x = pending + x_column();
      work.b = pending + a.heads * a.head_dim + a.heads + group_column();
      work.x_stride = work.b_stride = a.s.pending_elements;
      kernels.ssd(&work);
      index += count;
    });
  }

  void evaluate(int token, int count, const float* from, float* to) const {
    SsdRows work = this->work(fresh, token, count, from, to);
    work.x = a.x.f32(token) + x_column();
    work.b = a.b.f32(token) + group_column();
    work.c = a.c.f32(token) + group_column();
    work.y = a.y.f32(token) + x_column();
    work.x_stride = a.x.row_stride;
    work.b_stride = a.b.row_stride;
    work.c_stride = a.c.row_stride;
    work.y_stride = a.y.row_stride;
    kernels.ssd(&work);
  }

  void run(int seq) const {
    float* state = a.s.slot(step.slot[seq]) + x_column() * a.states;
    if (step.length[seq] == 0) std::fill_n(state, rows * a.states, 0.0f);
    apply_accepted(seq, state);
    const int first = step.first[seq], count = step.tokens_of(seq);
    if (step.kind == StepClass::prefill) return evaluate(first, count, state, state);
    if (is_chain(step, seq)) return evaluate(first, count, state, scratch);
    const auto node = [&](int token) { return scratch + (token - first) * rows * a.states; };
    for (int i = first; i < first + count; ++i)
      evaluate(i, 1, step.parent[i] < 0 ? state : node(step.parent[i]), node(i));
  }
};

}  // namespace

void ssd(const Ssd& a, Context& context) {
  const Step& step = context.step;
  const int64_t inputs = a.heads * a.head_dim + a.heads + a.groups * a.states;
  check_state("ssd s", a.s, a.heads * a.head_dim * a.states, inputs);
  const StateKernels& kernels = state_kernels();

  const Gates fresh =
      compute_gates(a, kernels, context.workspace, step.t, [&](int64_t i) { return a.dt.f32(i); });
  int seq = 0;
  const Gates accepted = compute_gates(
      a, kernels, context.workspace, static_cast<int64_t>(step.accepted.size()), [&](int64_t i) {
        while (i >= step.accepted_first[seq + 1]) ++seq;
        return a.s.pending_row(step.slot[seq], step.accepted[static_cast<size_t>(i)]) + a.heads * a.head_dim;
      });

  const int64_t rows = std::min<int64_t>(a.head_dim, std::max<int64_t>(4, kBlockFloats / a.states / 4 * 4));
  const int64_t blocks = (a.head_dim + rows - 1) / rows;  // of a head
  const int64_t tokens = step.t + static_cast<int64_t>(step.accepted.size());
  const UnitSplit split(a.heads * blocks, rows * a.states * tokens / 2, context);
  const int64_t scratch = std::max<int64_t>(1, tree_nodes(step)) * rows * a.states;
  float* memory = context.workspace.take<float>(split.chunks * scratch);

  split.run([&](int chunk, int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; ++unit) {
      const int64_t row = unit % blocks * rows;
      const Block block{a,
                        step,
                        kernels,
                        fresh,
                        accepted,
                        memory + chunk * scratch,
                        unit / blocks,
                        row,
                        std::min(rows, a.head_dim - row)};
      for (int seq = 0; seq < step.seqs; ++seq) block.run(seq);
    }
  });
  // Only now: other threads may have needed the old rows.
  if (step.kind == StepClass::decode) keep_pending(step, a.s, {a.x, a.dt, a.b});
}

}  // namespace crosscurrent::cpu
