// flash_attention_decode, pass 2: the splits of a row and head become one. Also the cache's rows.
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

// A thread keeps to its 16 bytes of every row, so its moves need no barrier: rows move down, in rising order.
__global__ void append_kernel(const __grid_constant__ FlashAttentionAppendArgs a) {
  launch_dependents();
  grid_dependency_wait();
  const int seq = blockIdx.x, head = blockIdx.y;
  const auto vectors = static_cast<int>(a.head_dim / 8);
  const bool is_key = static_cast<int>(threadIdx.x) < vectors;
  const int column = 8 * (is_key ? threadIdx.x : threadIdx.x - vectors);
  const auto at = [&](int row) {
    bf16* cache = is_key ? a.cache.k : a.cache.v;
    return reinterpret_cast<uint4*>(cache + row_offset(a.cache, page_of(a.cache, seq, row), row) +
                                    head * a.cache.head_stride + column);
  };
  const int length = a.sequences.length[seq], base = committed_tokens(a.sequences, seq);
  for (int i = 0; i < base - length; ++i) {
    const int from = a.accepted[a.sequences.accepted_first[seq] + i];
    if (from != i) *at(length + i) = *at(length + from);
  }
  const int first = a.sequences.first[seq], nodes = a.sequences.first[seq + 1] - first;
  const bf16* rows = is_key ? a.k : a.v;
  const int64_t stride = is_key ? a.k_stride : a.v_stride;
  for (int i = 0; i < nodes; ++i)
    *at(base + i) = *reinterpret_cast<const uint4*>(rows + (first + i) * stride + head * a.head_dim + column);
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

void flash_attention_append(const FlashAttentionAppendArgs& a, cudaStream_t stream) {
  const AttentionSequences& s = a.sequences;
  check(a.head_dim >= 8 && a.head_dim <= 512 && a.head_dim % 8 == 0, "flash_attention_append: head_dim",
        "a multiple of 8, at most 512", a.head_dim);
  check(a.kv_heads >= 1 && a.kv_heads <= 65535, "flash_attention_append: kv_heads", "1 to 65535", a.kv_heads);
  check(s.seqs >= 0, "flash_attention_append: seqs", "0 or more", s.seqs);
  check(s.t >= 0, "flash_attention_append: t", "0 or more", s.t);
  if (s.seqs == 0) return;
  check_pointer("flash_attention_append: first", s.first, 4);
  check_pointer("flash_attention_append: length", s.length, 4);
  check_pointer("flash_attention_append: cache k", a.cache.k, 16);
  check_pointer("flash_attention_append: cache v", a.cache.v, 16);
  if (s.accepted_first != nullptr) check_pointer("flash_attention_append: accepted", a.accepted, 4);
  if (a.cache.pages != nullptr)
    check(a.cache.page_tokens >= 1 && (a.cache.page_tokens & (a.cache.page_tokens - 1)) == 0,
          "flash_attention_append: page_tokens", "a power of two", a.cache.page_tokens);
  if (s.t > 0) {
    check_pointer("flash_attention_append: k", a.k, 16);
    check_pointer("flash_attention_append: v", a.v, 16);
    const int64_t width = a.kv_heads * a.head_dim;
    check(a.k_stride >= width && a.k_stride % 8 == 0, "flash_attention_append: k_stride",
          "a multiple of 8, at least " + std::to_string(width), a.k_stride);
    check(a.v_stride >= width && a.v_stride % 8 == 0, "flash_attention_append: v_stride",
          "a multiple of 8, at least " + std::to_string(width), a.v_stride);
  }
  launch(append_kernel,
         {.grid = dim3(static_cast<unsigned>(s.seqs), static_cast<unsigned>(a.kv_heads)),
          .block = dim3(static_cast<unsigned>(a.head_dim / 4)),
          .stream = stream,
          .dependent = current_arch().has_dependent_launch()},
         a);
}

}  // namespace crosscurrent::cuda
