// The sequences of a step, as the recurrent ops see them. All arrays are in device memory: a captured graph
// reads them anew at each replay.
#pragma once

#include <cstdint>

namespace crosscurrent::cuda {

// Prefill: every token is committed. Nodes that an earlier decode step left pending are committed before, by
// a decode step of no tokens.
struct PrefillSequences {
  const int32_t* first;   // [seqs + 1] tokens of sequence s: [first[s], first[s + 1])
  const int32_t* slot;    // [seqs] where its state lies
  const int32_t* length;  // [seqs] committed tokens; 0: a new sequence, whatever its slot holds
  int32_t seqs;
  int64_t t;  // first[seqs]
};

// Decode: up to `kMaxNodes` draft nodes a sequence, parents before children.
struct DecodeSequences {
  const int32_t* first;           // [seqs + 1]
  const int32_t* slot;            // [seqs]
  const int32_t* length;          // [seqs]
  const int32_t* parent;          // [t] index in the step of the node's parent, -1: the last committed token
  const int32_t* accepted_first;  // [seqs + 1]
  const int32_t* accepted;        // pending nodes to commit first, in order
  int32_t seqs;
  int64_t t;
};

constexpr int kMaxNodes = 16;

// Inputs of the nodes that the last decode step evaluated, as they came: [slots, window, elements of a node].
struct PendingRows {
  float* data;
  int32_t window;  // most nodes of a slot
};

}  // namespace crosscurrent::cuda
