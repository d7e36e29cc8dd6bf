// The nodes of one sequence in a decode step, and the walk over them. Every value is the same for all threads
// of a block.
#pragma once

#include "ptx.cuh"
#include "ssm_sequences.h"

namespace crosscurrent::cuda {

struct StepNodes {
  int64_t first;            // token of the first node
  int count;                // of new nodes
  const int32_t* accepted;  // pending nodes to apply
  int accepted_count;
  int64_t slot;
  bool is_new;

  __device__ StepNodes(const DecodeSequences& sequences, int seq)
      : first(sequences.first[seq]),
        count(min(sequences.first[seq + 1] - sequences.first[seq], kMaxNodes)),
        accepted(sequences.accepted + sequences.accepted_first[seq]),
        accepted_count(min(sequences.accepted_first[seq + 1] - sequences.accepted_first[seq], kMaxNodes)),
        slot(sequences.slot[seq]),
        is_new(sequences.length[seq] == 0) {}

  // The committed state changes.
  __device__ bool commits() const { return is_new || accepted_count > 0; }
};

// Parents of the nodes, relative to the first; in shared memory.
using StepParents = int8_t[kMaxNodes];

__device__ __forceinline__ void load_parents(StepParents& parents, const DecodeSequences& sequences,
                                             const StepNodes& nodes) {
  if (threadIdx.x >= nodes.count) return;
  const int64_t parent = sequences.parent[nodes.first + threadIdx.x];
  parents[threadIdx.x] = static_cast<int8_t>(parent < 0 ? -1 : parent - nodes.first);
}

// evaluate(node) for each node, from the state that its parent left. A node that does not follow the one
// before it starts over: restart() brings the committed state back and apply(node) takes it down the path, so
// that no copies of states are kept and the bits are those of a chain.
template <class Restart, class Apply, class Evaluate>
__device__ __forceinline__ void walk_nodes(const StepNodes& nodes, const StepParents& parents,
                                           Restart restart, Apply apply, Evaluate evaluate) {
  for (int node = 0; node < nodes.count; ++node) {
    const int parent = parents[node];
    if (parent != node - 1) {
      uint32_t path = 0;
      for (int up = parent; up >= 0; up = parents[up]) path |= 1u << up;
      restart();
      for (; path != 0; path &= path - 1) apply(__ffs(static_cast<int>(path)) - 1);
    }
    evaluate(node);
  }
}

// Whether this block is the last of `blocks` to get here; then every block has read what it needs of the old
// pending rows. The counter is zero before and after. All threads call it.
__device__ __forceinline__ bool arrives_last(uint32_t* counter, uint32_t blocks) {
  __shared__ bool is_last;
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = add_acquire_release(counter, 1) == blocks - 1;
    if (is_last) *counter = 0;
  }
  __syncthreads();
  return is_last;
}

}  // namespace crosscurrent::cuda
