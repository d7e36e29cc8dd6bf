// Before and after the products of `moe_prefill`: rows in order of expert, and the weighted sum over a
// token's rows. Bound by launches, and by memory in the sum.
//
//   count    a block a stretch of pairs: pairs of each expert; the last block to arrive makes, of all
//   stretches'
//            counts, the first row of each stretch and expert, and the groups
//   place    a block a stretch: rows of its pairs, in order
//   combine  eight columns a thread, experts in order of k
#include "moe_prefill_kernels.h"
#include "ptx.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kMostExperts = 512;
constexpr unsigned kAll = 0xFFFFFFFF;
static_assert(kThreads >= kMostExperts);

// Sums over the threads before this one, of both values; `total` of all.
__device__ __forceinline__ int2 sum_before(int2 value, int2& total) {
  __shared__ int2 warps[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int2 until = value;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int x = __shfl_up_sync(kAll, until.x, step), y = __shfl_up_sync(kAll, until.y, step);
    if (lane >= step) until.x += x, until.y += y;
  }
  if (lane == 31) warps[warp] = until;
  __syncthreads();
  total = {0, 0};
  int2 before{until.x - value.x, until.y - value.y};
  for (int i = 0; i < kWarps; ++i) {
    if (i < warp) before.x += warps[i].x, before.y += warps[i].y;
    total.x += warps[i].x, total.y += warps[i].y;
  }
  return before;
}

__device__ void list_groups(const MoeRoute& r, int expert, int first_row, int rows, int first, int groups) {
  const int group_rows = groups > 0 ? (rows + groups - 1) / groups : 0;
  for (int i = 0; i < groups; ++i) {
    const int run = i / kMoeRunGroups * kMoeRunGroups, run_groups = min(kMoeRunGroups, groups - run);
    r.groups[first + i] = {expert,
                           first_row + run * group_rows,
                           first_row + min(rows, (run + run_groups) * group_rows),
                           group_rows,
                           first + run,
                           run_groups};
  }
}

__global__ void __launch_bounds__(kThreads) count_kernel(const __grid_constant__ MoeRoute r) {
  __shared__ int count[kMostExperts];
  __shared__ bool is_last;
  launch_dependents();
  count[threadIdx.x] = 0;
  grid_dependency_wait();
  __syncthreads();
  const int first = blockIdx.x * r.stretch, end = min(r.pairs, first + r.stretch);
  for (int i = first + threadIdx.x; i < end; i += kThreads) {
    const int id = r.ids[i];
    if (static_cast<unsigned>(id) < static_cast<unsigned>(r.experts)) atomicAdd(count + id, 1);
  }
  __syncthreads();
  const int expert = threadIdx.x;
  int32_t* const column = r.stretch_first + expert;
  if (expert < r.experts) column[blockIdx.x * r.experts] = count[expert];
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = add_acquire_release(r.arrived, 1) == gridDim.x - 1;
  __syncthreads();
  if (!is_last) return;

  int rows = 0;
  if (expert < r.experts) {
#pragma unroll 8
    for (int s = 0; s < r.stretches; ++s) rows += __ldcg(column + s * r.experts);
  }
  const int groups = (rows + r.most_group_rows - 1) / r.most_group_rows;
  int2 total;
  const int2 before = sum_before({rows, groups}, total);
  if (expert < r.experts) {
    int row = before.x;
    for (int s = 0; s < r.stretches; s += 8) {
      int counts[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) counts[i] = s + i < r.stretches ? __ldcg(column + (s + i) * r.experts) : 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (s + i < r.stretches) column[(s + i) * r.experts] = row;
        row += counts[i];
      }
    }
    if (r.loads != nullptr) r.loads[expert] = rows;
    list_groups(r, expert, before.x, rows, before.y, groups);
  }
  if (threadIdx.x == 0) {
    *r.group_count = total.y;
    *r.arrived = 0;
  }
}

__global__ void __launch_bounds__(kThreads) place_kernel(const __grid_constant__ MoeRoute r) {
  __shared__ int next[kWarps][kMostExperts];  // of a warp's part of the stretch: counts, then next rows
  launch_dependents();
  for (int w = 0; w < kWarps; ++w) next[w][threadIdx.x] = 0;
  grid_dependency_wait();
  __syncthreads();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = r.stretch / kWarps;
  const int first = blockIdx.x * r.stretch + warp * part, end = min(r.pairs, first + part);
  const auto expert_of = [&](int pair) {
    const int id = pair < end ? r.ids[pair] : -1;
    return static_cast<unsigned>(id) < static_cast<unsigned>(r.experts) ? id : -1;
  };
  for (int pair = first + lane; pair < end; pair += 32) {
    const int expert = expert_of(pair);
    if (expert >= 0) atomicAdd(&next[warp][expert], 1);
  }
  __syncthreads();
  if (static_cast<int>(threadIdx.x) < r.experts) {
    int row = r.stretch_first[blockIdx.x * r.experts + threadIdx.x];
    for (int w = 0; w < kWarps; ++w) {
      const int rows = next[w][threadIdx.x];
      next[w][threadIdx.x] = row;
      row += rows;
    }
  }
  __syncthreads();
  for (int start = first; start < end; start += 32) {
    const int pair = start + lane, expert = expert_of(pair);
    const unsigned peers = __match_any_sync(kAll, expert), before = peers & ((1u << lane) - 1);
    int row = -1;
    if (expert >= 0) row = next[warp][expert] + __popc(before);
    __syncwarp();
    if (expert >= 0 && before == 0) next[warp][expert] += __popc(peers);
    __syncwarp();
    if (pair >= end) continue;
    if (row >= 0) r.row_token[row] = pair / r.top_k;
    r.pair_row[pair] = row;
  }
}

struct Combine {
  const int32_t* pair_row;
  const float* weights;
  const bf16* rows;  // [pairs, dim]
  bf16* y;
  unsigned vectors;  // of y
  unsigned row_vectors;
  int top_k;
};

__device__ __forceinline__ void add(float (&sum)[8], float weight, uint4 v) {
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum[2 * i] = __fmaf_rn(weight, __uint_as_float(words[i] << 16), sum[2 * i]);
    sum[2 * i + 1] = __fmaf_rn(weight, __uint_as_float(words[i] & 0xFFFF0000), sum[2 * i + 1]);
  }
}

__global__ void __launch_bounds__(256) combine_kernel(const __grid_constant__ Combine c) {
  constexpr int kAhead = 4;
  launch_dependents();
  grid_dependency_wait();
  const unsigned vector = blockIdx.x * 256 + threadIdx.x;
  if (vector >= c.vectors) return;
  const unsigned token = vector / c.row_vectors, column = vector - token * c.row_vectors;
  const int64_t first = static_cast<int64_t>(token) * c.top_k;
  const auto* const rows = reinterpret_cast<const uint4*>(c.rows) + column;
  float sum[8] = {};
  for (int k = 0; k < c.top_k; k += kAhead) {
    uint4 v[kAhead];
    float weight[kAhead];
    int row[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      row[i] = k + i < c.top_k ? c.pair_row[first + k + i] : -1;
      weight[i] = row[i] >= 0 ? c.weights[first + k + i] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (row[i] >= 0) v[i] = load_streaming(rows + static_cast<int64_t>(row[i]) * c.row_vectors);
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (row[i] >= 0) add(sum, weight[i], v[i]);
  }
  reinterpret_cast<uint4*>(c.y)[vector] = {pack_bf16(sum[0], sum[1]), pack_bf16(sum[2], sum[3]),
                                           pack_bf16(sum[4], sum[5]), pack_bf16(sum[6], sum[7])};
}

}  // namespace

void moe_route(const MoeRoute& route, cudaStream_t stream) {
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(route.stretches)),
                          .block = dim3(kThreads),
                          .stream = stream,
                          .dependent = current_arch().has_dependent_launch()};
  launch(count_kernel, shape, route);
  launch(place_kernel, shape, route);
}

void moe_combine(const MoePrefillArgs& a, const int32_t* pair_row, const bf16* rows, cudaStream_t stream) {
  const auto row_vectors = static_cast<unsigned>(a.dim / 8);
  const auto vectors = static_cast<unsigned>(a.t) * row_vectors;
  launch(combine_kernel,
         {.grid = dim3(ceil_div(vectors, 256u)),
          .block = dim3(256),
          .stream = stream,
          .dependent = current_arch().has_dependent_launch()},
         Combine{pair_row, a.weights, rows, a.y, vectors, row_vectors, a.top_k});
}

}  // namespace crosscurrent::cuda
