// flash_attention_prefill on mma.sync and cp.async, for devices without wgmma: 64 queries a block, 16 a warp,
// 64 keys at a time. Keys of the next block come while this one's values are multiplied. Correct, not tuned.
#include <algorithm>

#include "flash_attention_prefill.cuh"

namespace crosscurrent::cuda {
namespace prefill {
namespace {

constexpr int kRows = kPrefillMmaRows, kThreads = 128;

template <int kDim>
constexpr int kPanelsOf = prefill_panels(kDim);
template <int kDim>
constexpr int kKeysOf = prefill_mma_keys(kDim);

struct MmaParameters {
  FlashAttentionPrefillArgs args;
  Scores scores;
  int section_keys;
};

template <int kDim, bool kModified>
__global__ void __launch_bounds__(kThreads) mma_kernel(const __grid_constant__ MmaParameters p) {
  extern __shared__ __align__(128) unsigned char shared[];
  constexpr int kPanels = kPanelsOf<kDim>, kKeys = kKeysOf<kDim>, kChunks = kDim / 8;
  constexpr int kPanelBytes = kRows * 128, kKeyPanelBytes = kKeys * 128;
  unsigned char *const q = shared, *const k = q + kPanels * kPanelBytes,
                       *const v = k + kPanels * kKeyPanelBytes;
  const auto at = [](int row, int chunk) { return chunk / 8 * kPanelBytes + swizzled(row, chunk % 8); };
  const auto key_at = [](int row, int chunk) {
    return chunk / 8 * kKeyPanelBytes + swizzled(row, chunk % 8);
  };
  const FlashAttentionPrefillArgs& a = p.args;
  const int lane = static_cast<int>(threadIdx.x) % 32, my_row = static_cast<int>(threadIdx.x) / 32 * 16;
  launch_dependents();
  grid_dependency_wait();
  Tiles<kRows> tiles(a.sequences, static_cast<int>(a.heads), static_cast<int>(a.kv_heads), p.section_keys);
  TileRows tile;
  if (!tiles.find(static_cast<int>(blockIdx.x), tile)) return;
  const KeyBlocks blocks(tile.position, tile.end, kRows, kKeys, a.is_causal, a.window);
  const int64_t kv_head = tile.head / (a.heads / a.kv_heads);

  for (int i = static_cast<int>(threadIdx.x); i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks, inside = min(row, tile.count - 1);
    copy_async_16(q + at(row, chunk),
                  a.q + (int64_t{tile.row} + inside) * a.q_stride + tile.head * kDim + 8 * chunk);
  }
  const auto load = [&](unsigned char* to, const void* data, int block) {
    const auto* const from = static_cast<const bf16*>(data);
    for (int i = static_cast<int>(threadIdx.x); i < kKeys * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks, key = block * kKeys + row;
      const int known = min(key, tile.end - 1);
      const int64_t offset = row_offset(a.cache, page_of(a.cache, tile.seq, known), known);
      copy_async_16(to + key_at(row, chunk), from + offset + kv_head * a.cache.head_stride + 8 * chunk,
                    key < tile.end ? 16 : 0);
    }
    copy_async_commit();
  };
  load(k, a.cache.k, blocks.count - 1);

  Softmax<kKeys, kModified> softmax(a, p.scores);
  softmax.begin(tile.position + my_row + lane / 4, tile.end, tile.head);
  float sum[kDim / 2] = {};
  for (int block = blocks.count - 1; block >= blocks.first; --block) {
    load(v, a.cache.v, block);
    copy_async_wait<1>();
    __syncthreads();
    float s[kKeys / 2] = {};
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      uint32_t left[4];
      load_matrix_x4(left, q + at(my_row + lane % 16, 2 * i + lane / 16));
#pragma unroll
      for (int j = 0; j < kKeys / 8; j += 2) {
        uint32_t b[4];
        load_matrix_x4(b, k + key_at(8 * j + lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2));
        mma_bf16(reinterpret_cast<float (&)[4]>(s[4 * j]), left, b[0], b[1]);
        mma_bf16(reinterpret_cast<float (&)[4]>(s[4 * j + 4]), left, b[2], b[3]);
      }
    }
    float shrink[2];
    softmax.template add<true>(s, block * kKeys, shrink);
    __syncthreads();  // all have read k
    if (block > blocks.first) load(k, a.cache.k, block - 1);
    uint32_t weights[kKeys / 16][4];
    pack_weights(s, weights);
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) sum[i] *= shrink[i / 2 % 2];
    block > blocks.first ? copy_async_wait<1>() : copy_async_wait<0>();
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i) {
#pragma unroll
      for (int j = 0; j < kDim / 8; j += 2) {
        uint32_t b[4];
        load_matrix_transposed_x4(b, v + key_at(16 * i + lane % 16, j + lane / 16));
        mma_bf16(reinterpret_cast<float (&)[4]>(sum[4 * j]), weights[i], b[0], b[1]);
        mma_bf16(reinterpret_cast<float (&)[4]>(sum[4 * j + 4]), weights[i], b[2], b[3]);
      }
    }
    __syncthreads();  // all have read v
  }
  float factor[2];
  softmax.finish(a.sinks ? a.sinks[tile.head] : -INFINITY, factor);
  store_rows<kDim>(sum, factor, q + my_row * 128, kPanelBytes,
                   a.y + (int64_t{tile.row} + my_row) * a.y_stride + tile.head * kDim, a.y_stride,
                   tile.count - my_row);
}

template <int kDim>
void run_mma(const FlashAttentionPrefillArgs& a, cudaStream_t stream) {
  const Arch& arch = current_arch();
  const int64_t tiles = (a.sequences.t / kRows + a.sequences.seqs) * a.heads;
  launch(scores_are_modified(a) ? mma_kernel<kDim, true> : mma_kernel<kDim, false>,
         {.grid = dim3(static_cast<unsigned>(tiles)),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(prefill_mma_shared_bytes(kDim)),
          .stream = stream,
          .dependent = arch.has_dependent_launch()},
         MmaParameters{a, scores_of(a), static_cast<int>(prefill_section_keys(arch, kDim))});
}

}  // namespace
}  // namespace prefill

void flash_attention_prefill_mma(const FlashAttentionPrefillArgs& a, cudaStream_t stream) {
  if (a.sequences.t == 0) return;
  switch (a.head_dim) {
    case 64: return prefill::run_mma<64>(a, stream);
    case 96: return prefill::run_mma<96>(a, stream);
    case 128: return prefill::run_mma<128>(a, stream);
    default: return prefill::run_mma<256>(a, stream);
  }
}

}  // namespace crosscurrent::cuda
