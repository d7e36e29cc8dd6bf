// flash_attention_decode, pass 1: one partial result a (row, head, split). Memory-bound: every key and value
// is read once for all the queries of its kv head.
//
//   block: 16 queries (nodes x heads) of one kv head, a run of neighbouring splits
//   warp:  every fourth tile of 16 keys, its own softmax and its own ring of copies: no barrier until a split
//          ends
//   slot:  one tile in the ring; the copies of the next split are under way while the warps merge this one
//
// A tile with drafted keys in it is taken once a node, each time with the keys of that node's own path at
// their logical positions: so every row does the arithmetic of plain decoding. Chains need no such care.
#include <algorithm>
#include <type_traits>

#include "flash_attention_decode.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kThreads = 32 * kDecodeWarps;
constexpr int kTiles = kDecodeSplit / kDecodeTile / kDecodeWarps;  // of a warp in a split
constexpr unsigned kAll = 0xFFFFFFFF;

struct Problem {
  FlashAttentionDecodeArgs args;
  DecodePartials partials;
  int group;         // query heads of a kv head
  float scale_log2;  // scale · log2 e, or scale / softcap
};

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
__device__ Share share_of_block(const Problem& p, int64_t* shared) {
  const int seqs = p.args.sequences.seqs, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int each = (seqs + kThreads - 1) / kThreads;
  const int begin = min(seqs, static_cast<int>(threadIdx.x) * each), end = min(seqs, begin + each);
  int64_t mine = 0;
  for (int seq = begin; seq < end; ++seq) mine += Sequence(p, seq).units(p);
  int64_t until = mine;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(kAll, until, step);
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

template <int kDim>
constexpr int kRowBytes = decode_row_bytes(kDim);

// Byte of 16-byte vector `chunk` of row `row` of a tile in shared memory.
template <int kDim>
__device__ __forceinline__ int place(int row, int chunk) {
  const int column = kDim == 96 ? chunk : chunk ^ (row & 7);
  return row * kRowBytes<kDim> + 16 * column;
}

// Names the tiles of a warp one after the other and starts their copies.
template <int kDim>
class Loader {
 public:
  static constexpr int kTileBytes = kDecodeTile * kRowBytes<kDim>;

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
  __device__ void next(Slot& slot, unsigned char* keys, unsigned char* values) {
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
    if (has_keys) copy(start, tail, end, keys, values);
    if (lane == 0) {
      const bool begins = tile_ == 0 && (!tail || node_ == begin_node_);
      const bool ends = tile_ == kTiles - 1 && (!tail || node_ == last_node);
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
    if (++tile_ == kTiles) next_unit();
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
    is_chain_ = __all_sync(kAll, chain);
  }

  // Lane i: the page of this warp's tile i of a split.
  __device__ int load_pages(int split) const {
    const KvPages& cache = p_.args.cache;
    if (cache.pages == nullptr) return seq_;
    const int last = sequence_.base + sequence_.nodes - 1, lane = threadIdx.x % 32;
    const int row = min(tile_start(split, lane % kTiles), last);
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

  __device__ void copy(int start, bool tail, int end, unsigned char* keys, unsigned char* values) const {
    const int lane = threadIdx.x % 32;
    // Lanes 0 … 15 find the rows; -1: not seen by anyone, zeros.
    const int key = start + lane % kDecodeTile;
    int64_t offset = -1;
    if (!tail) {
      const int64_t page = __shfl_sync(kAll, pages_, tile_);
      if (key < end) offset = row_offset(p_.args.cache, page, key);
    } else if (key <= p_.args.sequences.position[node_]) {
      int row = key;
      if (key >= sequence_.base) {
        int node = node_;
        while (p_.args.sequences.position[node] > key) node = p_.args.sequences.parent[node];
        row = sequence_.base + node - sequence_.first;
      }
      offset = row_offset(p_.args.cache, page_of(p_.args.cache, seq_, row), row);
    }
    const int64_t head = head_ * p_.args.cache.head_stride;
    constexpr int kChunks = kDim / 8;
#pragma unroll
    for (int i = 0; i < kDecodeTile * kChunks / 32; ++i) {
      const int row = (32 * i + lane) / kChunks, chunk = (32 * i + lane) % kChunks;
      const int64_t from = __shfl_sync(kAll, offset, row);
      const int64_t at = (from < 0 ? 0 : from) + head + 8 * chunk;
      copy_async_16(keys + place<kDim>(row, chunk), p_.args.cache.k + at, from < 0 ? 0 : 16);
      copy_async_16(values + place<kDim>(row, chunk), p_.args.cache.v + at, from < 0 ? 0 : 16);
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

// The queries of a unit and their running softmax, in the fragments of mma m16n8k16: lane l has rows l / 4
// and l / 4 + 8.
template <int kDim>
class Rows {
 public:
  // With 256 columns the queries would not fit the registers beside the sums: they lie in `merge`, which is
  // free between the ends of units.
  static constexpr bool kSharesQueries = kDim == 256;

  __device__ Rows(const Problem& p, float* merge)
      : p_(p), shared_q_(reinterpret_cast<uint4*>(merge) + threadIdx.x % 32) {}

  __device__ void begin(const Slot& slot) {
    max_[0] = max_[1] = -INFINITY;
    total_[0] = total_[1] = 0;
#pragma unroll
    for (auto& column : sum_) column[0] = column[1] = column[2] = column[3] = 0;
    const bool known = slot.seq == seq_ && slot.head == head_ && slot.row_tile == row_tile_;
    if (known && !kSharesQueries) return;  // the next split of the same queries
    seq_ = slot.seq;
    head_ = slot.head;
    row_tile_ = slot.row_tile;
    load();
  }

  __device__ void add(const Slot& slot, const unsigned char* keys, const unsigned char* values) {
    const int lane = threadIdx.x % 32;
    // Scores of 16 keys; two chains each, so that one mma need not wait for another.
    float s[2][4] = {}, odd[2][4] = {};
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t b[4];
      load_matrix_x4(b, keys + place<kDim>(lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      float (&d)[2][4] = k % 2 == 0 ? s : odd;
      if constexpr (kSharesQueries) {
        const uint4 v = shared_q_[32 * k];
        const uint32_t q[4] = {v.x, v.y, v.z, v.w};
        mma_bf16(d[0], q, b[0], b[1]);
        mma_bf16(d[1], q, b[2], b[3]);
      } else {
        mma_bf16(d[0], q_[k], b[0], b[1]);
        mma_bf16(d[1], q_[k], b[2], b[3]);
      }
    }
    const bool whole = slot.node < 0 && slot.start + kDecodeTile - 1 <= min(position_[0], position_[1]) &&
                       slot.start >= max(low_[0], low_[1]);
    const bool masks = __any_sync(kAll, !whole);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float score = (s[n][i] + odd[n][i]) * p_.scale_log2;
        if (p_.args.softcap > 0)
          score = p_.args.softcap * kLog2E * (1.0f - 2.0f / (exp2_fast(2 * kLog2E * score) + 1.0f));
        if (masks) {
          const int key = slot.start + 8 * n + 2 * (lane % 4) + i % 2, half = i / 2;
          const bool seen =
              key <= position_[half] && key >= low_[half] && (slot.node < 0 || slot.node == node_[half]);
          if (!seen) score = -INFINITY;
        }
        s[n][i] = score;
      }
    }
    float shrink[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float most =
          fmaxf(fmaxf(s[0][2 * half], s[0][2 * half + 1]), fmaxf(s[1][2 * half], s[1][2 * half + 1]));
      most = fmaxf(most, __shfl_xor_sync(kAll, most, 1));
      most = fmaxf(most, __shfl_xor_sync(kAll, most, 2));
      most = fmaxf(most, max_[half]);
      shrink[half] = weight_of(max_[half], most);
      max_[half] = most;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) s[n][i] = weight_of(s[n][i], most);
      const float added = __fadd_rn(__fadd_rn(s[0][2 * half], s[0][2 * half + 1]),
                                    __fadd_rn(s[1][2 * half], s[1][2 * half + 1]));
      total_[half] = __fmaf_rn(total_[half], shrink[half], added);
    }
    if (__any_sync(kAll, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
      for (auto& column : sum_) {
        column[0] *= shrink[0];
        column[1] *= shrink[0];
        column[2] *= shrink[1];
        column[3] *= shrink[1];
      }
    }
    const uint32_t a[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]),
                           pack_bf16(s[1][0], s[1][1]), pack_bf16(s[1][2], s[1][3])};
#pragma unroll
    for (int n = 0; n < kDim / 8; n += 2) {
      uint32_t b[4];
      load_matrix_transposed_x4(b, values + place<kDim>(lane % 16, n + lane / 16));
      mma_bf16(sum_[n], a, b[0], b[1]);
      mma_bf16(sum_[n + 1], a, b[2], b[3]);
    }
  }

  // All warps of the block: their parts in order of warps, to the partial results.
  __device__ void end(const Slot& slot, float2 (*stats)[kDecodeRows], float* merge) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int rows = rows_;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = total_[half];
      total = __fadd_rn(total, __shfl_xor_sync(kAll, total, 1));
      total = __fadd_rn(total, __shfl_xor_sync(kAll, total, 2));
      if (lane % 4 == 0) stats[warp][lane / 4 + 8 * half] = make_float2(max_[half], total);
    }
    __syncthreads();
    const auto partial = [&](int row) {
      const int at = slot.row_tile * kDecodeRows + row;
      return p_.partials.at(first_ + at / p_.group, p_.args.heads, slot.head * p_.group + at % p_.group,
                            slot.split);
    };
    const auto largest = [&](int row) {
      float most = stats[0][row].x;
      for (int i = 1; i < kDecodeWarps; ++i) most = fmaxf(most, stats[i][row].x);
      return most;
    };
    if (static_cast<int>(threadIdx.x) < rows) {
      const int row = threadIdx.x;
      const float most = largest(row);
      float total = 0;
      for (int i = 0; i < kDecodeWarps; ++i)
        total = __fmaf_rn(stats[i][row].y, weight_of(stats[i][row].x, most), total);
      p_.partials.stats[partial(row)] = make_float2(most, total);
    }
    // Eight rows at a time; columns are swizzled, so that four rows meet all banks.
    const auto column_of = [](int row, int column) { return row * kDim + (column ^ (row % 4 * 8)); };
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (8 * half >= rows) break;
      const int row = lane / 4;
      const float factor = weight_of(max_[half], largest(row + 8 * half));
      float* mine = merge + warp * 8 * kDim;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
        *reinterpret_cast<float2*>(mine + column_of(row, 8 * n + 2 * (lane % 4))) =
            make_float2(sum_[n][2 * half] * factor, sum_[n][2 * half + 1] * factor);
      __syncthreads();
      const int here = min(8, rows - 8 * half);
      for (int i = threadIdx.x; i < here * (kDim / 4); i += kThreads) {
        const int r = i / (kDim / 4), column = i % (kDim / 4) * 4;
        float4 total = *reinterpret_cast<const float4*>(merge + column_of(r, column));
        for (int w = 1; w < kDecodeWarps; ++w) {
          const float4 part = *reinterpret_cast<const float4*>(merge + w * 8 * kDim + column_of(r, column));
          total.x += part.x;
          total.y += part.y;
          total.z += part.z;
          total.w += part.w;
        }
        *reinterpret_cast<float4*>(p_.partials.sum + partial(8 * half + r) * kDim + column) = total;
      }
      __syncthreads();
    }
  }

 private:
  __device__ void load() {
    const AttentionSequences& s = p_.args.sequences;
    const int lane = threadIdx.x % 32;
    first_ = s.first[seq_];
    const int count = (s.first[seq_ + 1] - first_) * p_.group;
    rows_ = min(kDecodeRows, count - row_tile_ * kDecodeRows);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_tile_ * kDecodeRows + lane / 4 + 8 * half;
      const bool exists = row < count;
      node_[half] = exists ? first_ + row / p_.group : -1;
      // rows that do not exist see every key of zeros
      position_[half] = exists ? s.position[node_[half]] : INT_MAX;
      low_[half] = exists ? lowest_key(position_[half], p_.args.window) : 0;
      const int64_t head = head_ * p_.group + row % p_.group;
      const bf16* q = p_.args.q + (exists ? node_[half] * p_.args.q_stride + head * kDim : 0);
      q += 2 * (lane % 4);
#pragma unroll
      for (int i = 0; i < kSteps; ++i) {
        const int k = kSharesQueries ? threadIdx.x / 32 * kSteps + i : i;
        const auto* at = reinterpret_cast<const uint32_t*>(q + 16 * k);
        q_[i][half] = exists ? at[0] : 0;
        q_[i][half + 2] = exists ? at[4] : 0;
      }
    }
    if constexpr (kSharesQueries) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
        shared_q_[(threadIdx.x / 32 * kSteps + i) * 32] = make_uint4(q_[i][0], q_[i][1], q_[i][2], q_[i][3]);
      __syncthreads();
    }
  }

  const Problem& p_;
  int seq_ = -1, head_ = 0, row_tile_ = 0, first_ = 0, rows_ = 0;
  int node_[2], position_[2], low_[2];
  float max_[2], total_[2];
  static constexpr int kSteps = kDim / 16 / (kSharesQueries ? kDecodeWarps : 1);
  uint4* shared_q_;
  uint32_t q_[kSteps][4];
  float sum_[kDim / 8][4];
};

template <int kDim, int kStages>
__global__ void __launch_bounds__(kThreads, kDim == 256 ? 1 : 2)
    flash_attention_decode_kernel(const __grid_constant__ Problem p) {
  extern __shared__ __align__(128) unsigned char shared[];
  using Tiles = Loader<kDim>;
  constexpr int kRing = kStages * 2 * Tiles::kTileBytes;
  float* merge = reinterpret_cast<float*>(shared + kDecodeWarps * kRing);
  auto* stats = reinterpret_cast<float2(*)[kDecodeRows]>(merge + kDecodeWarps * 8 * kDim);
  auto* slots = reinterpret_cast<Slot*>(stats + kDecodeWarps) + threadIdx.x / 32 * kStages;
  unsigned char* ring = shared + threadIdx.x / 32 * kRing;
  const auto keys = [&](int stage) { return ring + stage * 2 * Tiles::kTileBytes; };
  const auto values = [&](int stage) { return keys(stage) + Tiles::kTileBytes; };

  launch_dependents();
  grid_dependency_wait();
  Tiles loader(p, share_of_block(p, reinterpret_cast<int64_t*>(merge)));
  for (int stage = 0; stage < kStages - 1; ++stage) {
    loader.next(slots[stage], keys(stage), values(stage));
    copy_async_commit();
  }
  Rows<kDim> rows(p, merge);
  int stage = 0, behind = kStages - 1;
  while (true) {
    loader.next(slots[behind], keys(behind), values(behind));
    copy_async_commit();
    __syncwarp();
    const Slot slot = slots[stage];
    if (slot.flags & kStop) break;
    if (slot.flags & kBegins) rows.begin(slot);
    copy_async_wait<kStages - 1>();
    __syncwarp();
    if (slot.flags & kHasKeys) rows.add(slot, keys(stage), values(stage));
    if (slot.flags & kEnds) rows.end(slot, stats, merge);
    __syncwarp();
    behind = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  copy_async_wait<0>();
}

void check_args(const FlashAttentionDecodeArgs& a) {
  const AttentionSequences& s = a.sequences;
  check(decode_head_dim_is_known(a.head_dim), "flash_attention_decode: head_dim", "64, 96, 128 or 256",
        a.head_dim);
  check(a.kv_heads >= 1 && a.kv_heads <= 65535, "flash_attention_decode: kv_heads", "1 to 65535", a.kv_heads);
  check(a.heads >= 1 && a.heads <= 65535 && a.heads % a.kv_heads == 0 &&
            a.heads / a.kv_heads <= kDecodeMaxGroup,
        "flash_attention_decode: heads", "1 to 64 times " + std::to_string(a.kv_heads), a.heads);
  check(s.seqs >= 0 && s.seqs <= 65535, "flash_attention_decode: seqs", "0 to 65535", s.seqs);
  check(s.t >= 0 && s.t <= std::min<int64_t>(65535, int64_t{kDecodeMaxNodes} * s.seqs),
        "flash_attention_decode: t", "at most 64 nodes a sequence and 65535", s.t);
  check(s.max_tokens >= 1 && s.max_tokens < (int64_t{1} << 31) - kDecodeSplit,
        "flash_attention_decode: max_tokens", "1 to 2^31 - 257", s.max_tokens);
  check(std::isfinite(a.scale), "flash_attention_decode: scale", "a finite number", a.scale);
  check(a.window >= 0, "flash_attention_decode: window", "0 or more", a.window);
  check(a.softcap >= 0 && std::isfinite(a.softcap), "flash_attention_decode: softcap", "0 or more",
        a.softcap);
}

void check_cache(const KvPages& cache, int64_t head_dim, const AttentionSequences& s, int64_t kv_heads) {
  check_pointer("flash_attention_decode: cache k", cache.k, 16);
  check_pointer("flash_attention_decode: cache v", cache.v, 16);
  const auto check_stride = [](const char* operand, int64_t stride, int64_t least) {
    check(stride % 8 == 0 && stride >= least, operand, "a multiple of 8, at least " + std::to_string(least),
          stride);
  };
  check_stride("flash_attention_decode: token_stride", cache.token_stride, head_dim);
  check_stride("flash_attention_decode: head_stride", cache.head_stride, kv_heads > 1 ? head_dim : 0);
  check_stride("flash_attention_decode: page_stride", cache.page_stride, s.seqs > 1 ? head_dim : 0);
  if (cache.pages != nullptr) {
    check_pointer("flash_attention_decode: pages", cache.pages, 4);
    check(cache.page_tokens >= kDecodeTile && (cache.page_tokens & (cache.page_tokens - 1)) == 0,
          "flash_attention_decode: page_tokens", "a power of two, 16 or more", cache.page_tokens);
    check(int64_t{cache.max_pages} * cache.page_tokens >= s.max_tokens, "flash_attention_decode: max_pages",
          "pages for " + std::to_string(s.max_tokens) + " tokens", cache.max_pages);
  }
}

void check_sequences(const AttentionSequences& s) {
  check_pointer("flash_attention_decode: first", s.first, 4);
  check_pointer("flash_attention_decode: length", s.length, 4);
  check_pointer("flash_attention_decode: position", s.position, 4);
  check_pointer("flash_attention_decode: parent", s.parent, 4);
}

int64_t splits_of(const FlashAttentionDecodeArgs& a) {
  return ceil_div<int64_t>(a.sequences.max_tokens, kDecodeSplit);
}

template <int kDim, int kStages>
void run(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  const Arch& arch = current_arch();
  const FlashAttentionDecodeArgs& a = problem.args;
  const int64_t row_tiles = a.sequences.seqs + ceil_div<int64_t>(a.sequences.t * problem.group, kDecodeRows);
  const int64_t units = row_tiles * a.kv_heads * problem.partials.splits;
  launch(flash_attention_decode_kernel<kDim, kStages>,
         {.grid = dim3(static_cast<unsigned>(std::min<int64_t>(units, tile.blocks * arch.sms))),
          .block = dim3(kThreads),
          .shared_bytes = static_cast<size_t>(tile.shared_bytes),
          .stream = stream,
          .dependent = arch.has_dependent_launch()},
         problem);
  combine(a, problem.partials, stream);
}

template <int kDim>
void with_stages(const Problem& problem, const FlashAttentionDecodeTile& tile, cudaStream_t stream) {
  constexpr int kMost = kDim == 64 ? 6 : 3;
  tile.stages == kMost ? run<kDim, kMost>(problem, tile, stream) : run<kDim, 2>(problem, tile, stream);
}

}  // namespace

size_t flash_attention_decode_workspace(const FlashAttentionDecodeArgs& args) {
  check_args(args);
  const auto parts = static_cast<size_t>(args.sequences.t * args.heads * splits_of(args));
  return parts * (sizeof(float) * static_cast<size_t>(args.head_dim) + sizeof(float2));
}

void flash_attention_decode(const FlashAttentionDecodeArgs& args, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = flash_attention_decode_workspace(args);
  if (args.sequences.t == 0) return;
  check_pointer("flash_attention_decode: q", args.q, 4);
  check_pointer("flash_attention_decode: y", args.y, 2);
  check(args.q_stride % 2 == 0 && args.q_stride >= args.heads * args.head_dim,
        "flash_attention_decode: q_stride", "even, at least " + std::to_string(args.heads * args.head_dim),
        args.q_stride);
  check(args.y_stride >= args.heads * args.head_dim, "flash_attention_decode: y_stride",
        "at least " + std::to_string(args.heads * args.head_dim), args.y_stride);
  check_sequences(args.sequences);
  check_cache(args.cache, args.head_dim, args.sequences, args.kv_heads);
  check_workspace("flash_attention_decode: workspace", workspace, bytes);
  const FlashAttentionDecodeTile tile = flash_attention_decode_tile(current_arch(), args.head_dim);
  if (tile.stages == 0)
    throw Error(Code::device_unavailable, "flash_attention_decode: shared memory of the device",
                "enough for head_dim " + std::to_string(args.head_dim),
                std::to_string(current_arch().shared_bytes) + " bytes");
  const int64_t splits = splits_of(args);
  Problem problem{args, {}, static_cast<int>(args.heads / args.kv_heads), args.scale * kLog2E};
  if (args.softcap > 0) problem.scale_log2 = args.scale / args.softcap;
  problem.partials.sum = static_cast<float*>(workspace.data);
  problem.partials.stats = reinterpret_cast<float2*>(problem.partials.sum +
                                                     args.sequences.t * args.heads * splits * args.head_dim);
  problem.partials.splits = static_cast<int>(splits);
  switch (args.head_dim) {
    case 64: return with_stages<64>(problem, tile, stream);
    case 96: return with_stages<96>(problem, tile, stream);
    case 128: return with_stages<128>(problem, tile, stream);
    default: return with_stages<256>(problem, tile, stream);
  }
}

}  // namespace crosscurrent::cuda
