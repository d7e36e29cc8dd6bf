// What the ops with a recurrent state have in common: committed + pending (docs/architecture.md, "State").
//
// A slot holds the state after its committed tokens, and the inputs of the nodes that the last decode step
// evaluated. A step first applies those of them that the caller accepted, by the very loops that evaluate new
// tokens: so the bits are those of plain decoding. A prefill step then commits its tokens, a decode step
// keeps their inputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <string>

#include "../error.h"
#include "../tensor.h"
#include "context.h"
#include "pool.h"

namespace crosscurrent::cpu {

// The sizes come from an untrusted program.
inline void check_state(const char* operand, const StateView& state, int64_t elements,
                        int64_t pending_elements) {
  if (state.elements == elements && state.pending_elements == pending_elements) return;
  throw Error(Code::invalid_program, operand,
              std::to_string(elements) + " elements and " + std::to_string(pending_elements) + " pending",
              std::to_string(state.elements) + " and " + std::to_string(state.pending_elements));
}

// Each token of the sequence follows the one before it.
inline bool is_chain(const Step& step, int seq) {
  for (int i = step.first[seq]; i < step.first[seq + 1]; ++i)
    if (step.parent[i] != (i == step.first[seq] ? -1 : i - 1)) return false;
  return true;
}

// The most nodes of a sequence that branches; 0 where all are chains. Prefill is always one.
inline int64_t tree_nodes(const Step& step) {
  int64_t nodes = 0;
  if (step.kind == StepClass::prefill) return nodes;
  for (int seq = 0; seq < step.seqs; ++seq)
    if (!is_chain(step, seq)) nodes = std::max<int64_t>(nodes, step.tokens_of(seq));
  return nodes;
}

// body(first node, count) for each run of neighbours among the accepted pending nodes, in order.
template <class Body>
void for_accepted(const Step& step, int seq, Body body) {
  const int end = step.accepted_first[seq + 1];
  for (int i = step.accepted_first[seq]; i < end;) {
    const int start = i++;
    while (i < end && step.accepted[i] == step.accepted[i - 1] + 1) ++i;
    body(step.accepted[start], i - start);
  }
}

// Decode: copies each token's rows of `inputs`, side by side, to its pending row. Call when no accepted node
// is wanted any more.
inline void keep_pending(const Step& step, const StateView& state, std::initializer_list<Tensor> inputs) {
  for (int seq = 0; seq < step.seqs; ++seq) {
    for (int i = step.first[seq]; i < step.first[seq + 1]; ++i) {
      float* row = state.pending_row(step.slot[seq], i - step.first[seq]);
      for (const Tensor& input : inputs) {
        std::memcpy(row, input.f32(i), static_cast<size_t>(input.dims[1]) * sizeof(float));
        row += input.dims[1];
      }
    }
  }
}

// body(chunk, first, last) over [0, units), one range a thread: a state then tends to stay in one core's
// cache (dynamic chunks: 156 µs instead of 19 for a decode step of 4096 x 16 on two threads of a Zen 5).
// `cost` is in cheap operations a unit.
struct UnitSplit {
  int64_t units;
  int chunks, threads;

  UnitSplit(int64_t units, int64_t cost, const Context& context) : units(units), threads(context.threads) {
    constexpr int64_t kCostOfChunk = 1 << 16;  // ~15 µs: below, a thread costs more to wake than it saves
    const int64_t useful = std::min(units, units * cost / kCostOfChunk);
    chunks = static_cast<int>(std::clamp<int64_t>(useful, 1, Pool::instance().threads_for(threads)));
  }
  template <class Body>
  void run(Body body) const {
    Pool::instance().run(chunks, threads, [&](int chunk) {
      body(chunk, units * chunk / chunks, units * (chunk + 1) / chunks);
    });
  }
};

}  // namespace crosscurrent::cpu
