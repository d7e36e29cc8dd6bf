// flash_attention_decode: which tiles a block and a warp take, and their way into shared memory.
#pragma once

#include <type_traits>

#include "flash_attention_decode.cuh"

namespace crosscurrent::cuda::decode {

constexpr int kDecodeThreads = 32 * kDecodeWarps;
constexpr int kDecodeTiles = kDecodeSplit / kDecodeTile / kDecodeWarps;  // of a warp in a split
constexpr unsigned kAllLanes = 0xFFFFFFFF;

struct Problem {
  FlashAttentionDecodeArgs args;
  DecodePartials partials;
  int group;         // query heads of a kv head
  float scale_log2;  // scale · log2 e, or scale / softcap
};

}  // namespace crosscurrent::cuda::decode

namespace crosscurrent::cuda {

void flash_attention_decode_bf16(const decode::Problem&, const FlashAttentionDecodeTile&, cudaStream_t);
void flash_attention_decode_f8(const decode::Problem&, const FlashAttentionDecodeTile&, cudaStream_t);
void flash_attention_decode_i8(const decode::Problem&, const FlashAttentionDecodeTile&, cudaStream_t);

}  // namespace crosscurrent::cuda

namespace crosscurrent::cuda::decode {

// A tile on its way through the ring of a warp.
struct Slot {
  int start;  // position of its first key
  int node;   // the one node (in the step) whose path it holds, or -1: every row's keys
  int flags;
  int seq, head, split, row_tile;
  int unused;
};
constexpr int kHasKeys = 1, kBegins = 2, kEnds = 4, kStop = 8;

// A sequence as the blocks cut it: units (head, split, row tile), the last fastest.
struct Sequence {
  int first, nodes, base, low, splits, row_tiles;  // low: its first split

  __device__ Sequence(const Problem& p, int seq) {
    const AttentionSequences& s = p.args.sequences;
    first = s.first[seq];
    nodes = s.first[seq + 1] - first;
    base = committed_tokens(s, seq);
    low = lowest_key(base, p.args.window) / kDecodeSplit;
    const int high = min((base + nodes - 1) / kDecodeSplit, p.partials.splits - 1);
    splits = nodes > 0 ? max(0, high - low + 1) : 0;
    row_tiles = (nodes * p.group + kDecodeRows - 1) / kDecodeRows;
  }
  __device__ int64_t units(const Problem& p) const { return p.args.kv_heads * splits * row_tiles; }
};

// The share of a block: `count` units from unit `unit` of sequence `seq` on.
struct Share {
  int64_t unit, count;
  int seq;
};

// Equal shares; every block adds up the units of all sequences.
__device__ inline Share share_of_block(const Problem& p, int64_t* shared) {
  const int seqs = p.args.sequences.seqs, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (seqs + kDecodeThreads - 1) / kDecodeThreads;
  const int begin = min(seqs, static_cast<int>(threadIdx.x) * each), end = min(seqs, begin + each);
  int64_t mine = 0;
  for (int seq = begin; seq < end; ++seq) mine += Sequence(p, seq).units(p);
  int64_t until = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(kAllLanes, until, step);
    if (lane >= step) until += other;
  }
  if (lane == 31) shared[warp] = until;
  __syncthreads();
  int64_t total = 0;
  for (int i = 0; i < kDecodeWarps; ++i) {
    if (i == warp) until += total;
    total += shared[i];
  }
  const int64_t first = total * blockIdx.x / gridDim.x, last = total * (blockIdx.x + 1) / gridDim.x;
  int64_t unit = first - (until - mine);
  if (first < last && unit >= 0 && first < until) {
    int seq = begin;
    for (int64_t units; unit >= (units = Sequence(p, seq).units(p)); ++seq) unit -= units;
    shared[kDecodeWarps] = unit;
    shared[kDecodeWarps + 1] = seq;
  }
  __syncthreads();
  const Share share{shared[kDecodeWarps], last - first, static_cast<int>(shared[kDecodeWarps + 1])};
  __syncthreads();
  return share;
}

template <KvType kType>
using Element = std::conditional_t<kType == KvType::bf16, bf16, uint8_t>;

template <int kDim, KvType kType>
constexpr int kRowBytes = decode_row_bytes(kDim, kType);

// Byte of 16-byte vector `chunk` of row `row` of a tile in shared memory.
template <int kDim, KvType kType>
__device__ __forceinline__ int place(int row, int chunk) {
  constexpr int kBytes = kRowBytes<kDim, kType>;
  const int column = kDim == 96 ? chunk : kBytes == 64 ? chunk ^ (row >> 1 & 3) : chunk ^ (row & 7);
  return row * kBytes + 16 * column;
}

// Where a tile lies in shared memory.
struct TileBuffers {
  unsigned char* keys;
  unsigned char* values;
  float* scales;  // of 16 keys, then of 16 values; not of bf16
};

// Names the tiles of a warp one after the other and starts their copies.
template <int kDim, KvType kType>
class Loader {
 public:
  static constexpr int kTileBytes = kDecodeTile * kRowBytes<kDim, kType>;
  static constexpr bool kHasScales = kType != KvType::bf16;

  __device__ Loader(const Problem& p, const Share& share)
      : p_(p), left_(share.count), seq_(share.seq), sequence_(p, share.count > 0 ? share.seq : 0) {
    if (left_ <= 0) return;
    row_tile_ = static_cast<int>(share.unit % sequence_.row_tiles);
    const auto rest = static_cast<int>(share.unit / sequence_.row_tiles);
    split_ = rest % sequence_.splits;
    head_ = rest / sequence_.splits;
    enter_sequence();
    pages_ = load_pages(split_);
    begin_unit();
  }

  // The next slot; its copies are the caller's next group.
  __device__ void next(Slot& slot, const TileBuffers& to) {
    const int lane = threadIdx.x % 32;
    if (left_ <= 0) {
      if (lane == 0) slot.flags = kStop;
      return;
    }
    const int start = tile_start(split_, tile_);
    const bool tail = !is_chain_ && start + kDecodeTile > sequence_.base;
    const int last_node = end_node_ - 1;
    const int end = sequence_.base + sequence_.nodes;
    bool has_keys = start < end && start + kDecodeTile > lowest_key(sequence_.base, p_.args.window);
    if (has_keys && tail) has_keys = p_.args.sequences.position[node_] >= start;
    if (has_keys) copy(start, tail, end, to);
    if (lane == 0) {
      const bool begins = tile_ == 0 && (!tail || node_ == begin_node_);
      const bool ends = tile_ == kDecodeTiles - 1 && (!tail || node_ == last_node);
      slot = {start,
              tail ? node_ : -1,
              (has_keys ? kHasKeys : 0) | (begins ? kBegins : 0) | (ends ? kEnds : 0),
              seq_,
              head_,
              split_ + sequence_.low,
              row_tile_,
              0};
    }
    if (tail && node_ < last_node) {
      ++node_;
      return;
    }
    node_ = begin_node_;
    if (++tile_ == kDecodeTiles) next_unit();
  }

 private:
  __device__ int tile_start(int split, int tile) const {
    const int warp = threadIdx.x / 32;
    return (sequence_.low + split) * kDecodeSplit + (tile * kDecodeWarps + warp) * kDecodeTile;
  }

  __device__ void enter_sequence() {
    const int32_t* parent = p_.args.sequences.parent + sequence_.first;
    bool chain = true;
    if (sequence_.nodes > 1)
      for (int i = threadIdx.x % 32; i < sequence_.nodes; i += 32)
        chain = chain && parent[i] == (i == 0 ? -1 : sequence_.first + i - 1);
    is_chain_ = __all_sync(kAllLanes, chain);
  }

  // Lane i: the page of this warp's tile i of a split.
  __device__ int load_pages(int split) const {
    const KvPages& cache = p_.args.cache;
    if (cache.pages == nullptr) return seq_;
    const int last = sequence_.base + sequence_.nodes - 1, lane = threadIdx.x % 32;
    const int row = min(tile_start(split, lane % kDecodeTiles), last);
    return cache.pages[static_cast<int64_t>(seq_) * cache.max_pages + row / cache.page_tokens];
  }

  __device__ void begin_unit() {
    tile_ = 0;
    begin_node_ = sequence_.first + row_tile_ * kDecodeRows / p_.group;
    const int rows = min((row_tile_ + 1) * kDecodeRows, sequence_.nodes * p_.group);
    end_node_ = sequence_.first + (rows - 1) / p_.group + 1;
    node_ = begin_node_;
    // asked for a split ahead
    next_pages_ = load_pages(split_ + 1 < sequence_.splits ? split_ + 1 : 0);
  }

  __device__ void next_unit() {
    if (--left_ <= 0) return;
    if (++row_tile_ == sequence_.row_tiles) {
      row_tile_ = 0;
      pages_ = next_pages_;
      if (++split_ == sequence_.splits) {
        split_ = 0;
        if (++head_ == p_.args.kv_heads) {
          head_ = 0;
          do sequence_ = Sequence(p_, ++seq_);
          while (sequence_.units(p_) == 0);
          enter_sequence();
          pages_ = load_pages(0);
        }
      }
    }
    begin_unit();
  }

  __device__ void copy(int start, bool tail, int end, const TileBuffers& to) const {
    const int lane = threadIdx.x % 32;
    // Lanes 0 … 15 find the rows, and so do those behind; -1: not seen by anyone, zeros.
    const int key = start + lane % kDecodeTile;
    int64_t offset = -1, scale = 0;
    const auto find = [&](int64_t page, int row) {
      offset = row_offset(p_.args.cache, page, row);
      if constexpr (kHasScales) scale = scale_offset(p_.args.cache, page, row);
    };
    if (!tail) {
      const int64_t page = __shfl_sync(kAllLanes, pages_, tile_);
      if (key < end) find(page, key);
    } else if (key <= p_.args.sequences.position[node_]) {
      int row = key;
      if (key >= sequence_.base) {
        int node = node_;
        while (p_.args.sequences.position[node] > key) node = p_.args.sequences.parent[node];
        row = sequence_.base + node - sequence_.first;
      }
      find(page_of(p_.args.cache, seq_, row), row);
    }
    const KvPages& cache = p_.args.cache;
    if constexpr (kHasScales) {
      const float* from = lane < kDecodeTile ? cache.k_scale : cache.v_scale;
      copy_async<4>(to.scales + lane, from + scale + head_ * cache.scale_head_stride, offset < 0 ? 0 : 4);
    }
    const int64_t head = head_ * cache.head_stride;
    const auto* const k = static_cast<const Element<kType>*>(cache.k) + head;
    const auto* const v = static_cast<const Element<kType>*>(cache.v) + head;
    constexpr int kVector = 16 / sizeof(Element<kType>), kChunks = kDim / kVector;
#pragma unroll
    for (int i = 0; i < kDecodeTile * kChunks / 32; ++i) {
      const int row = (32 * i + lane) / kChunks, chunk = (32 * i + lane) % kChunks;
      const int64_t from = __shfl_sync(kAllLanes, offset, row);
      const int64_t at = (from < 0 ? 0 : from) + kVector * chunk;
      copy_async_16(to.keys + place<kDim, kType>(row, chunk), k + at, from < 0 ? 0 : 16);
      copy_async_16(to.values + place<kDim, kType>(row, chunk), v + at, from < 0 ? 0 : 16);
    }
  }

  const Problem& p_;
  int64_t left_;  // units, the current one included
  int seq_, head_ = 0, split_ = 0, row_tile_ = 0, tile_ = 0;
  int node_ = 0, begin_node_ = 0, end_node_ = 0;
  int pages_ = 0, next_pages_ = 0;
  bool is_chain_ = true;
  Sequence sequence_;
};

}  // namespace crosscurrent::cuda::decode
