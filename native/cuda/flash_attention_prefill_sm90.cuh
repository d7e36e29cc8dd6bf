// flash_attention_prefill on wgmma. Bound by wgmma; at head_dim 64 as much by the exponentials.
//
//   loading warp 0    takes tiles (64 queries a consumer warpgroup, one head) from a counter, longest first;
//                     TMA: queries, then blocks of keys, last to first, one box a page and 64 columns
//   loading warp 1    TMA: blocks of values
//   warpgroups 1 …    S = Q Kᵀ from shared memory; P = exp2(S) stays in registers, the A operand of P V
//
// Q Kᵀ of a block is issued before P V of the block before it, which then runs beside the softmax; so it goes
// on from tile to tile: y is stored beside the first block of the next one. Masked blocks are loops of their
// own. Turns of the warpgroups by named barriers, as FlashAttention-3 has them, lost: 597 to 611 TFLOP/s for
// 612 to 618 (H100, head_dim 128, causal, 8192 tokens).
#pragma once

#include <algorithm>

#include "flash_attention_prefill_loader.cuh"
#include "wgmma.cuh"

namespace crosscurrent::cuda::prefill {

// A consumer warpgroup: 64 queries of each tile.
template <class L>
class Consumer {
 public:
  __device__ __forceinline__ Consumer(const Parameters& p, Shared<L>& shared)
      : p_(p),
        shared_(shared),
        warpgroup_(__shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / 128 - 1, 0)),
        lane_(static_cast<int>(threadIdx.x) % 32),
        my_row_(static_cast<int>(threadIdx.x) / 32 * 16 - 64),
        softmax_(p.args, p.scores) {}

  __device__ __forceinline__ void run() {
    const FlashAttentionPrefillArgs& a = p_.args;
    if (!tile_comes()) return;
    float factor[2];
    begin<true>(0, factor);
    while (true) {
      const int masked = max(whole_end_, first_), whole = max(whole_begin_, first_);
      for (; block_ >= masked; --block_) step<true>();
      for (; block_ >= whole; --block_) step<false>();
      for (; block_ >= first_; --block_) step<true>();
      const unsigned done = query_.turn % L::kSlots;
      softmax_.finish(a.sinks ? a.sinks[shared_.tiles[done].head] : -INFINITY, factor);
      release(&shared_.q_empty[query_.stage()]);
      query_ = query_.next();
      if (!tile_comes()) {
        wgmma_fence();
        multiply_values();
        wgmma_wait<0>();
        hold_sums();
        return store(done, factor);
      }
      begin<false>(done, factor);
    }
  }

 private:
  __device__ __forceinline__ void release(uint64_t* empty) const {
    if (lane_ == 0) mbarrier_arrive(empty);
  }
  __device__ __forceinline__ void release_keys() {
    release(&shared_.k_empty[keys_.stage()]);
    keys_ = keys_.next();
  }

  __device__ __forceinline__ void multiply_keys() {
    uint64_t q = wgmma_matrix(shared_.q[query_.stage()] + warpgroup_ * 64 * 128, 1024, Swizzle::bytes_128);
    asm volatile("" : "+l"(q));  // else the descriptors of all steps wait in registers
    const uint64_t k = wgmma_matrix(shared_.k[keys_.stage()], 1024, Swizzle::bytes_128);
#pragma unroll
    for (int i = 0; i < L::kDim / 16; ++i)
      wgmma_shared<L::kKeys>(s_, wgmma_advance(q, i / 4 * L::kQueryPanel + i % 4 * 32),
                             wgmma_advance(k, i / 4 * L::kKeyPanel + i % 4 * 32), i > 0);
    wgmma_commit();
  }
  __device__ __forceinline__ void multiply_values() {
    const uint64_t v = wgmma_matrix_transposed(shared_.v[values_.stage()], L::kKeyPanel);
#pragma unroll
    for (int i = 0; i < L::kKeys / 16; ++i)
#pragma unroll
      for (int part = 0; part < L::kParts; ++part)
        wgmma_register_transposed<L::kPart>(
            sum_[part], weights_[i], wgmma_advance(v, part * (L::kPart / 64) * L::kKeyPanel + i * 16 * 128));
    wgmma_commit();
  }
  __device__ __forceinline__ void hold_sums() {
#pragma unroll
    for (auto& part : sum_) wgmma_hold(part);
  }

  // Rows behind the last key hold anything, and no weight, even 0, may meet a NaN. Every warpgroup writes the
  // same zeros.
  __device__ __forceinline__ void clear_values(int from) {
    for (int i = static_cast<int>(threadIdx.x) % 128; i < (L::kKeys - from) * 8 * L::kPanels; i += 128) {
      const int panel = i / 8 % L::kPanels, row = from + i / 8 / L::kPanels;
      *reinterpret_cast<uint4*>(shared_.v[values_.stage()] + panel * L::kKeyPanel + row * 128 + i % 8 * 16) =
          uint4{0, 0, 0, 0};
    }
    fence_async_shared();
    barrier_sync(1 + warpgroup_, 128);
  }

  __device__ __forceinline__ bool tile_comes() const {
    mbarrier_wait(&shared_.q_full[query_.stage()], query_.parity());
    return shared_.tiles[query_.turn % L::kSlots].count > 0;
  }

  // Scores of a block, beside the values of the one before it.
  __device__ __forceinline__ void multiply_both() {
    mbarrier_wait(&shared_.k_full[keys_.stage()], keys_.parity());
    wgmma_fence();
    multiply_keys();
    wgmma_fence();
    multiply_values();
    wgmma_wait<1>();
    wgmma_hold(s_);
    release_keys();
  }
  // The end of both.
  __device__ __forceinline__ void finish_values() {
    // The values of this block are not needed yet. But a wait for them that cannot begin before the weights
    // are summed keeps ptxas from moving the softmax behind the wait for the products.
    const auto next = values_.next();
    mbarrier_wait(&shared_.v_full[next.stage()], next.parity() ^ softmax_.zero());
    wgmma_wait<0>();
    hold_sums();
    release(&shared_.v_empty[values_.stage()]);
    values_ = next;
  }

  template <bool kMasked>
  __device__ __forceinline__ void step() {
    multiply_both();
    float shrink[2];
    softmax_.template add<kMasked>(s_, block_ * L::kKeys, shrink);
    finish_values();
    pack_weights(s_, weights_);
    if (!__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) return;
#pragma unroll
    for (auto& part : sum_)
#pragma unroll
      for (int i = 0; i < L::kPart / 2; ++i) part[i] *= shrink[i / 2 % 2];
  }

  // The first block of a tile, beside the last values of tile `done`, whose rows then are stored.
  template <bool kIsFirst>
  __device__ __forceinline__ void begin(unsigned done, const float (&factor)[2]) {
    const FlashAttentionPrefillArgs& a = p_.args;
    {
      const TileRows tile = shared_.tiles[query_.turn % L::kSlots];
      const KeyBlocks blocks(tile.position, tile.end, L::kRows, L::kKeys, a.is_causal, a.window);
      first_ = blocks.first;
      block_ = blocks.count - 1;
      whole_begin_ = blocks.whole_begin;
      whole_end_ = blocks.whole_end;
      softmax_.begin(tile.position + my_row_ + lane_ / 4, tile.end, tile.head);
    }
    if constexpr (kIsFirst) {
      mbarrier_wait(&shared_.k_full[keys_.stage()], keys_.parity());
      wgmma_fence();
      multiply_keys();
      wgmma_wait<0>();
      wgmma_hold(s_);
      release_keys();
    } else {
      multiply_both();
    }
    float shrink[2];
    softmax_.template add<true>(s_, block_ * L::kKeys, shrink);
    if constexpr (kIsFirst) {
      mbarrier_wait(&shared_.v_full[values_.stage()], values_.parity());
    } else {
      finish_values();
      store(done, factor);
    }
    pack_weights(s_, weights_);
#pragma unroll
    for (auto& part : sum_)
#pragma unroll
      for (float& v : part) v = 0;
    const int known = shared_.tiles[query_.turn % L::kSlots].end - block_ * L::kKeys;
    if (known < L::kKeys) clear_values(known);
    --block_;
  }

  __device__ __forceinline__ void store(unsigned done, const float (&factor)[2]) {
    const FlashAttentionPrefillArgs& a = p_.args;
    const TileRows tile = shared_.tiles[done];
    bf16* const y = a.y + (int64_t{tile.row} + my_row_) * a.y_stride + tile.head * L::kDim;
#pragma unroll
    for (int part = 0; part < L::kParts; ++part)
      store_rows<L::kPart>(sum_[part], factor, shared_.y + my_row_ * 128, L::kQueryPanel, y + part * L::kPart,
                           a.y_stride, tile.count - my_row_);
  }

  const Parameters& p_;
  Shared<L>& shared_;
  const int warpgroup_, lane_, my_row_;
  Turn<L::kStages> keys_, values_;
  Turn<L::kQueryStages> query_;
  Softmax<L::kKeys, L::kModified> softmax_;
  int block_, first_, whole_begin_, whole_end_;
  float s_[L::kKeys / 2], sum_[L::kParts][L::kPart / 2];
  uint32_t weights_[L::kKeys / 16][4];
};

template <class L>
__global__ void __launch_bounds__(L::kTile.threads(), 1)
    flash_attention_prefill_kernel(const __grid_constant__ Parameters p) {
  if constexpr (kSm90a) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    auto& shared = *reinterpret_cast<Shared<L>*>(bytes);
    if (threadIdx.x == 0) {
      for (int i = 0; i < L::kQueryStages; ++i) {
        mbarrier_init(&shared.q_full[i], 1);
        mbarrier_init(&shared.q_empty[i], 4 * L::kWarpgroups + 1);
      }
      for (int i = 0; i < L::kStages; ++i) {
        mbarrier_init(&shared.k_full[i], 1);
        mbarrier_init(&shared.v_full[i], 1);
        mbarrier_init(&shared.k_empty[i], 4 * L::kWarpgroups);
        mbarrier_init(&shared.v_empty[i], 4 * L::kWarpgroups);
      }
      mbarrier_init_fence();
    }
    launch_dependents();
    __syncthreads();
    if (threadIdx.x < 128) {
      lower_registers<L::kTile.producer_registers>();
      if (threadIdx.x < 32) {
        load_keys<L>(p, shared);
      } else if (threadIdx.x < 64) {
        load_values<L>(p, shared);
      }
    } else {
      raise_registers<L::kTile.consumer_registers>();
      Consumer<L>(p, shared).run();
    }
  }
}

inline int log2_of(int power) { return power > 1 ? 1 + log2_of(power / 2) : 0; }

inline CUtensorMap cache_map(const void* data, const FlashAttentionPrefillArgs& a, int box_tokens) {
  const auto bytes = [&](int64_t stride) {
    return static_cast<uint64_t>(2 * (stride > 0 ? stride : a.head_dim));
  };
  const KvPages& cache = a.cache;
  // how many pages there are is not said; ids are valid
  const int64_t tokens = cache.pages ? cache.page_tokens : a.sequences.max_tokens;
  const int64_t pages = cache.pages ? INT32_MAX : a.sequences.seqs;
  return tensor_map(
      data, {.rank = 4,
             .size = {static_cast<uint64_t>(a.head_dim), static_cast<uint64_t>(tokens),
                      static_cast<uint64_t>(a.kv_heads), static_cast<uint64_t>(pages)},
             .stride_bytes = {bytes(cache.token_stride), bytes(cache.head_stride), bytes(cache.page_stride)},
             .box = {64, static_cast<uint32_t>(box_tokens), 1, 1}});
}

template <class L>
void launch_sm90(const FlashAttentionPrefillArgs& a, Workspace workspace, cudaStream_t stream) {
  constexpr int kBytes = prefill_shared_bytes(L::kDim, L::kModified);
  static_assert(sizeof(Shared<L>) <= kBytes);
  const Arch& arch = current_arch();
  const int box_tokens = a.cache.pages ? std::min(L::kKeys, a.cache.page_tokens) : L::kKeys;
  Parameters p;
  p.args = a;
  p.scores = scores_of(a);
  p.handed_out = static_cast<uint32_t*>(workspace.data);
  p.group = static_cast<int>(a.heads / a.kv_heads);
  p.box_log2 = log2_of(box_tokens);
  p.page_log2 = log2_of(a.cache.page_tokens);
  p.section_keys = static_cast<int>(prefill_section_keys(arch, L::kDim));
  p.q = tensor_map(a.q,
                   {.rank = 3,
                    .size = {L::kDim, static_cast<uint64_t>(a.heads), static_cast<uint64_t>(a.sequences.t)},
                    .stride_bytes = {2 * L::kDim, static_cast<uint64_t>(2 * a.q_stride)},
                    .box = {64, 1, L::kRows}});
  p.k = cache_map(a.cache.k, a, box_tokens);
  p.v = cache_map(a.cache.v, a, box_tokens);
  const int64_t tiles = (a.sequences.t / L::kRows + a.sequences.seqs) * a.heads;
  p.blocks = static_cast<int>(std::min<int64_t>(arch.sms, tiles));
  launch(flash_attention_prefill_kernel<L>,
         {.grid = dim3(static_cast<unsigned>(p.blocks)),
          .block = dim3(L::kTile.threads()),
          .shared_bytes = kBytes,
          .stream = stream,
          .dependent = true},
         p);
}

template <int kDim>
void run_sm90(const FlashAttentionPrefillArgs& a, Workspace workspace, cudaStream_t stream) {
  scores_are_modified(a) ? launch_sm90<Layout<kDim, true>>(a, workspace, stream)
                         : launch_sm90<Layout<kDim, false>>(a, workspace, stream);
}

}  // namespace crosscurrent::cuda::prefill
