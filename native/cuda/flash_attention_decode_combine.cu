// flash_attention_decode, pass 2: the splits of a row and head become one.
//
// One block a (head, row): warp w takes splits w, w + 16, … in order, then the warps are added in order.
#include "flash_attention_decode.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kBatch = 4;  // splits whose loads are under way together

template <int kDim>
__global__ void __launch_bounds__(32 * kWarps)
    combine_kernel(const __grid_constant__ FlashAttentionDecodeArgs a, const DecodePartials partials) {
  constexpr int kColumns = kDim / 32;
  __shared__ float sums[kWarps][kDim];
  __shared__ float2 stats[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int head = blockIdx.x;
  const int64_t row = blockIdx.y;
  launch_dependents();
  const int position = a.sequences.position[row];
  const int low = lowest_key(position, a.window) / kDecodeSplit, high = position / kDecodeSplit;
  const int64_t first = partials.at(row, a.heads, head, 0);
  grid_dependency_wait();

  float sum[kColumns] = {}, most = -INFINITY, total = 0;
  for (int split = low + warp; split <= high; split += kWarps * kBatch) {
    float2 part[kBatch];
    float values[kBatch][kColumns];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int at = split + i * kWarps;
      if (at > high) break;
      part[i] = __ldcg(partials.stats + first + at);
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        values[i][j] = __ldcg(partials.sum + (first + at) * kDim + 32 * j + lane);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      if (split + i * kWarps > high) break;
      const float next = fmaxf(most, part[i].x);
      const float old_weight = weight_of(most, next), new_weight = weight_of(part[i].x, next);
      most = next;
      total = __fmaf_rn(total, old_weight, __fmul_rn(part[i].y, new_weight));
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
        sum[j] = __fmaf_rn(sum[j], old_weight, __fmul_rn(values[i][j], new_weight));
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) sums[warp][32 * j + lane] = sum[j];
  if (lane == 0) stats[warp] = make_float2(most, total);
  __syncthreads();

  const int column = threadIdx.x;
  if (column >= kDim) return;
  const float sink = a.sinks ? a.sinks[head] * kLog2E : -INFINITY;
  most = sink;
  for (int w = 0; w < kWarps; ++w) most = fmaxf(most, stats[w].x);
  float y = 0;
  total = weight_of(sink, most);
  for (int w = 0; w < kWarps; ++w) {
    const float weight = weight_of(stats[w].x, most);
    total = __fmaf_rn(stats[w].y, weight, total);
    y = __fmaf_rn(sums[w][column], weight, y);
  }
  a.y[row * a.y_stride + head * kDim + column] = __float2bfloat16(__fdiv_rn(y, total));
}

}  // namespace

void combine(const FlashAttentionDecodeArgs& a, const DecodePartials& partials, cudaStream_t stream) {
  const auto run = [&](auto kernel) {
    launch(kernel,
           {.grid = dim3(static_cast<unsigned>(a.heads), static_cast<unsigned>(a.sequences.t)),
            .block = dim3(32 * kWarps),
            .stream = stream,
            .dependent = current_arch().has_dependent_launch()},
           a, partials);
  };
  switch (a.head_dim) {
    case 64: return run(combine_kernel<64>);
    case 96: return run(combine_kernel<96>);
    case 128: return run(combine_kernel<128>);
    default: return run(combine_kernel<256>);
  }
}

}  // namespace crosscurrent::cuda
