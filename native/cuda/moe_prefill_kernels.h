// Between the files of `moe_prefill`: what its launches hand to each other.
#pragma once

#include "moe_prefill.h"

namespace crosscurrent::cuda {

// Of a group; the groups of a run hold the same but for their own rows:
// group i of the run has rows [run_row + i * group_rows, min(that + group_rows, run_end)).
struct MoeGroup {
  int expert;
  int run_row, run_end;  // in order of expert
  int group_rows;
  int run_first, run_groups;  // which groups are of this run
};

// Every pair token * top_k + k has a row, in order of expert, then of pair.
struct MoeRoute {
  const int32_t* ids;
  int pairs, experts, top_k;
  int stretch, stretches;  // of the counting sort
  int most_group_rows;
  int32_t* loads;          // or null
  int32_t* stretch_first;  // [stretches, experts] counts, then first rows
  uint32_t* arrived;       // zero between calls
  int32_t* group_count;    // [1]
  MoeGroup* groups;        // in order of row
  int32_t* row_token;      // [pairs]
  int32_t* pair_row;       // [pairs], -1: no such expert
};

// y[row, n] = epilogue(x[row of x, k] weight[expert of row, n, k]ᵀ)
struct MoeMatmul {
  const bf16* x;
  int64_t x_rows;
  const int32_t* row_token;  // rows of x; null for down, whose x is in order of rows
  const bf16* left;          // [experts, n, k]
  const bf16* right;         // the same for up, or null
  bf16* y;                   // [rows, n] = act(left) · right, or act(left); for down, left
  bool is_down;
  Activation activation;
  int n, k, experts;
  const MoeGroup* groups;
  const int32_t* group_count;
  int64_t most_groups;
};

void moe_route(const MoeRoute& route, cudaStream_t stream);  // two launches
void moe_matmul_sm90(const MoeMatmul& matmul, cudaStream_t stream);
void moe_matmul_mma(const MoeMatmul& matmul, cudaStream_t stream);
void moe_combine(const MoePrefillArgs& args, const int32_t* pair_row, const bf16* rows, cudaStream_t stream);

}  // namespace crosscurrent::cuda
