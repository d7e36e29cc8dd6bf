// selective_scan: Δ = softplus(dt + dt_bias), h = exp(Δ a) h + Δ b x, y = (Σ_n c[n] h[n] + d x) · silu(z)
//
// Sequential in time in both classes; vectors across channels. State of a slot: h [channels, states]; a
// pending row: x, dt [channels] as they came, b [states].
#include <algorithm>

#include "../ops.gen.h"
#include "state_kernels.h"
#include "state_step.h"

namespace crosscurrent::cpu {
namespace {

constexpr float kLog2E = 1.44269504f;

// Working memory of one thread, for a block of channels. A state in it is tiles (state_kernels.h), `size`
// floats.
struct Tiles {
  float *a, *h, *nodes;  // nodes: one state a tree node
  int64_t size;
};

// Channels [channel, channel + channels) of all sequences.
struct Block {
  const SelectiveScan& a;
  const Step& step;
  const StateKernels& kernels;
  const Tiles& tiles;
  int64_t channel;
  int channels;

  ScanRows rows(const float* from, float* to) const {
    ScanRows rows{};
    rows.states = a.states;
    rows.channels = channels;
    rows.a = tiles.a;
    rows.dt_bias = a.dt_bias.f32() + channel;
    rows.d = a.d.f32() + channel;
    rows.from = from;
    rows.to = to;
    return rows;
  }

  void apply_accepted(int seq) const {
    for_accepted(step, seq, [&](int node, int count) {
      ScanRows rows = this->rows(tiles.h, tiles.h);
      const float* pending = a.h.pending_row(step.slot[seq], node);
      rows.x = pending + channel;
      rows.dt = pending + a.channels + channel;
      rows.b = pending + 2 * a.channels;
      rows.x_stride = rows.dt_stride = rows.b_stride = a.h.pending_elements;
      rows.count = count;
      kernels.scan(&rows);
    });
  }

  void evaluate(int token, int count, const float* from, float* to) const {
    ScanRows rows = this->rows(from, to);
    rows.x = a.x.f32(token) + channel;
    rows.dt = a.dt.f32(token) + channel;
    rows.b = a.b.f32(token);
    rows.c = a.c.f32(token);
    rows.z = a.z ? a.z.f32(token) + channel : nullptr;
    rows.y = a.y.f32(token) + channel;
    rows.x_stride = a.x.row_stride;
    rows.dt_stride = a.dt.row_stride;
    rows.b_stride = a.b.row_stride;
    rows.c_stride = a.c.row_stride;
    rows.z_stride = a.z.row_stride;
    rows.y_stride = a.y.row_stride;
    rows.count = count;
    kernels.scan(&rows);
  }

  void run(int seq) const {
    float* committed = a.h.slot(step.slot[seq]) + channel * a.states;
    if (step.length[seq] == 0)
      std::fill_n(tiles.h, tiles.size, 0.0f);
    else
      kernels.scan_load(committed, a.states, channels, a.states, 1.0f, tiles.h);
    apply_accepted(seq);
    const int first = step.first[seq], count = step.tokens_of(seq);
    if (step.kind == StepClass::prefill) {
      evaluate(first, count, tiles.h, tiles.h);
      kernels.scan_store(tiles.h, channels, a.states, committed);
      return;
    }
    if (step.length[seq] == 0 || step.accepted_count(seq) > 0)
      kernels.scan_store(tiles.h, channels, a.states, committed);
    if (is_chain(step, seq)) return evaluate(first, count, tiles.h, tiles.h);
    const auto node = [&](int token) { return tiles.nodes + (token - first) * tiles.size; };
    for (int i = first; i < first + count; ++i)
      evaluate(i, 1, step.parent[i] < 0 ? tiles.h : node(step.parent[i]), node(i));
  }
};

}  // namespace

void selective_scan(const SelectiveScan& a, Context& context) {
  const Step& step = context.step;
  check_state("selective_scan h", a.h, a.channels * a.states, 2 * a.channels + a.states);
  const StateKernels& kernels = state_kernels();
  const int64_t blocks = (a.channels + kScanChannels - 1) / kScanChannels;
  const int64_t tokens = step.t + static_cast<int64_t>(step.accepted.size());
  const UnitSplit split(blocks, 4 * kScanChannels * a.states * tokens, context);
  const int64_t size =
      std::min<int64_t>((a.channels + kScanTile - 1) / kScanTile * kScanTile, kScanChannels) * a.states;
  const int64_t scratch = (2 + tree_nodes(step)) * size;
  float* memory = context.workspace.take<float>(split.chunks * scratch);

  split.run([&](int chunk, int64_t first, int64_t last) {
    float* const own = memory + chunk * scratch;
    const Tiles tiles{own, own + size, own + 2 * size, size};
    for (int64_t channel = first * kScanChannels; channel < std::min(last * kScanChannels, a.channels);
         channel += kScanChannels) {
      const int channels = static_cast<int>(std::min<int64_t>(kScanChannels, a.channels - channel));
      kernels.scan_load(a.a.f32(channel), a.a.row_stride, channels, a.states, kLog2E, tiles.a);
      const Block block{a, step, kernels, tiles, channel, channels};
      for (int seq = 0; seq < step.seqs; ++seq) block.run(seq);
    }
  });
  // Only now: b is shared by all channels, and other threads may have needed the old rows.
  if (step.kind == StepClass::decode) keep_pending(step, a.h, {a.x, a.dt, a.b});
}

}  // namespace crosscurrent::cpu
