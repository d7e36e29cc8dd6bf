// causal_conv1d: y[t, c] = act(bias[c] + Σ_j weight[c, j] · x[t - kernel + 1 + j, c])
//
// Window of a sequence: its last kernel - 1 inputs, oldest first. With the accepted nodes and the step's own
// inputs behind them they are one list of rows; a token convolves over kernel rows of it, a draft node over
// its ancestors and then the list.
#include <algorithm>
#include <cstring>
#include <string>

#include "../ops.gen.h"
#include "state_kernels.h"
#include "state_step.h"

namespace crosscurrent::cpu {
namespace {

constexpr int64_t kBlock = 256;  // channels at a time: weights and taps of them stay in L1 through all tokens
constexpr int64_t kUnit = 16;    // channels: one cache line, so that no two threads write to the same

// The rows that a sequence's tokens look back on, and those its window moves on to.
struct History {
  const float** rows;  // window, accepted nodes, then in prefill the tokens
  int64_t count;       // of rows that are committed after the step
  int64_t moved;       // how many of them are new to the window
};

struct Conv {
  const CausalConv1d& a;
  const Step& step;
  int64_t kept;        // rows of the window: kernel - 1
  const float* zeros;  // [channels]
  History* histories;  // [seqs]
  const float** taps;  // [t, kernel]
  float* weight;       // [kernel, channels]

  void list_history(int seq, const float** rows) const {
    const int64_t slot = step.slot[seq];
    History& history = histories[seq];
    history = {rows, 0, 0};
    for (int64_t i = 0; i < kept; ++i)
      rows[history.count++] = step.length[seq] == 0 ? zeros : a.window.slot(slot) + i * a.channels;
    for (int i = step.accepted_first[seq]; i < step.accepted_first[seq + 1]; ++i)
      rows[history.count++] = a.window.pending_row(slot, step.accepted[i]);
    int64_t last = history.count;  // the list ends before the token
    for (int i = step.first[seq]; i < step.first[seq + 1]; ++i) {
      int64_t back = last;
      int token = i;
      for (int64_t j = a.kernel - 1; j >= 0; --j) {
        taps[i * a.kernel + j] = token >= 0 ? a.x.f32(token) : rows[--back];
        if (token >= 0) token = step.parent[token];
      }
      if (step.kind == StepClass::prefill) rows[history.count++] = a.x.f32(i);
    }
    history.moved = history.count - kept;
  }

  // Channels [channel, channel + count), of which nothing outside is touched: the caller's split is free.
  void run(const StateKernels& kernels, int64_t channel, int64_t count) const {
    for (int i = 0; i < step.t; ++i) {
      ConvRow row{};
      for (int64_t j = 0; j < a.kernel; ++j) row.taps[j] = taps[i * a.kernel + j] + channel;
      row.weight = weight + channel;
      row.weight_stride = a.channels;
      row.bias = a.bias ? a.bias.f32() + channel : nullptr;
      row.y = a.y.f32(i) + channel;
      row.count = count;
      row.kernel = static_cast<int>(a.kernel);
      row.activation = static_cast<int>(a.activation);
      kernels.conv_row(&row);
    }
    const size_t bytes = static_cast<size_t>(count) * sizeof(float);
    for (int seq = 0; seq < step.seqs; ++seq) {
      const History& history = histories[seq];
      // oldest first: a row moves to a place whose old content is no longer wanted
      for (int64_t i = 0; i < kept; ++i) {
        float* to = a.window.slot(step.slot[seq]) + i * a.channels + channel;
        const float* from = history.rows[i + history.moved] + channel;
        if (from != to) std::memcpy(to, from, bytes);
      }
      if (step.kind == StepClass::prefill) continue;
      for (int i = step.first[seq]; i < step.first[seq + 1]; ++i)
        std::memcpy(a.window.pending_row(step.slot[seq], i - step.first[seq]) + channel, a.x.f32(i) + channel,
                    bytes);
    }
  }
};

}  // namespace

void causal_conv1d(const CausalConv1d& a, Context& context) {
  const Step& step = context.step;
  if (a.kernel < 2 || a.kernel > kMaxConvKernel)
    throw Error(Code::invalid_program, "causal_conv1d kernel", "2.." + std::to_string(kMaxConvKernel),
                std::to_string(a.kernel));
  const int64_t kept = a.kernel - 1;
  check_state("causal_conv1d window", a.window, kept * a.channels, a.channels);

  Workspace& workspace = context.workspace;
  float* zeros = workspace.take<float>(a.channels);
  std::fill_n(zeros, a.channels, 0.0f);
  const int64_t rows = step.seqs * kept + static_cast<int64_t>(step.accepted.size()) + step.t;
  const float** list = workspace.take<const float*>(rows);
  const Conv conv{a,
                  step,
                  kept,
                  zeros,
                  workspace.take<History>(step.seqs),
                  workspace.take<const float*>(step.t * a.kernel),
                  workspace.take<float>(a.kernel * a.channels)};
  for (int seq = 0; seq < step.seqs; ++seq) {
    conv.list_history(seq, list);
    list += conv.histories[seq].count;
  }

  const StateKernels& kernels = state_kernels();
  const int64_t units = (a.channels + kUnit - 1) / kUnit;
  UnitSplit(units, kUnit * a.kernel * step.t, context).run([&](int, int64_t first, int64_t last) {
    const int64_t end = std::min(last * kUnit, a.channels);
    for (int64_t channel = first * kUnit; channel < end; channel += kBlock) {
      const int64_t count = std::min(kBlock, end - channel);
      kernels.conv_weights(a.weight.f32(channel), a.weight.row_stride, count, static_cast<int>(a.kernel),
                           conv.weight + channel, a.channels);
      conv.run(kernels, channel, count);
    }
  });
}

}  // namespace crosscurrent::cpu
