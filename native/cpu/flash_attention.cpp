// flash_attention: y = softmax(scale q k^T + mask) v over a paged cache (kv_layout.h), one online softmax a
// row
//
// Exactness. A row's keys in logical order (committed rows, ancestors, itself) are cut at absolute positions:
// blocks of 32 keys, one running softmax over the blocks of a split of 1024 keys, splits merged in order.
// Nothing of that depends on how the tokens came into the cache, on other rows, or on threads, so neither do
// the bits. Rows share the keys of a block where all see it whole; at ragged edges, and where ancestors of a
// tree are not side by side, each goes alone.
#include <atomic>
#include <cmath>
#include <limits>
#include <string>

#include "../error.h"
#include "../ops.gen.h"
#include "flash_attention_kernels.h"
#include "isa.h"
#include "kv_layout.h"
#include "split.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__x86_64__)
constexpr IsaTables<AttentionKernels> kKernels{
    .v2 = &kAttentionV2, .avx2 = &kAttentionAvx2, .avx512_vnni = &kAttentionAvx512Vnni};
#else
constexpr IsaTables<AttentionKernels> kKernels{.v2 = &kAttentionV2};
#endif

constexpr int64_t kSplit = 1024;  // keys; a multiple of the block
constexpr int64_t kTileQueries =
    24;  // with one block of keys and values of 64 elements they fit a 32 KiB L1 cache

// Queries of neighbouring rows of one sequence and one kv head: heads of a row side by side.
struct Tile {
  int seq;
  int64_t kv_head;
  int64_t begin, end;              // rows of the step
  int64_t first_split, end_split;  // splits that any of them sees
  int64_t lowest, direct;          // every row sees keys [lowest, direct) and finds them at their own place
};

// Running softmax of the queries of a tile.
struct Running {
  float *sum, *max, *total;
};

// What one worker needs for itself.
struct Scratch {
  Running whole, part;
  std::byte* block;  // keys and values of one block
  float* room;       // the same as f32
  const float** q;
  float *slope, *ahead;  // of the queries
};

int kernel_of(DType dtype) {
  return dtype == DType::f16    ? kKvF16
         : dtype == DType::bf16 ? kKvBf16
         : dtype == DType::i8   ? kKvInt8
                                : kKvF32;
}

class Attention {
 public:
  Attention(const FlashAttention& a, Context& context)
      : a_(a),
        context_(context),
        step_(context.step),
        heads_(a.q.dims[1] / a.head_dim),
        group_(heads_ / a.kv_heads),
        layout_(a.cache.dtype, a.head_dim, a.cache.page_tokens),
        block_layout_(a.cache.dtype, a.head_dim, kKeyBlock),
        kernel_(kKernels.active().block[kernel_of(a.cache.dtype)]) {}

  void run() {
    const int64_t units = step_.seqs * a_.kv_heads;
    for_ranges(context_, units, 4 * a_.head_dim * (1 + step_.t / step_.seqs),
               [&](int64_t begin, int64_t end) {
                 for (int64_t unit = begin; unit < end; ++unit)
                   update_cache(static_cast<int>(unit / a_.kv_heads), unit % a_.kv_heads);
               });
    find_direct();
    plan_tiles();
    attend_all();
  }

 private:
  int64_t tile_queries() const { return std::max<int64_t>(1, kTileQueries / group_) * group_; }
  KvRows rows_of(int seq) const {
    return {a_.cache, layout_, &step_.pages[static_cast<size_t>(seq) * step_.max_pages]};
  }
  int64_t lowest_key(int64_t row) const {
    return a_.window > 0 ? std::max<int64_t>(0, int64_t{step_.position[row]} - a_.window + 1) : 0;
  }

  // Moves the accepted rows of the last step into place, then writes this step's, where it has some.
  void update_cache(int seq, int64_t kv_head) {
    const KvRows rows = rows_of(seq);
    const int32_t* accepted = step_.accepted.data() + step_.accepted_first[seq];
    for (int i = 0; i < step_.accepted_count(seq); ++i)
      if (accepted[i] != i)
        layout_.move(layout_, rows(kv_head, step_.length[seq] + accepted[i]),
                     rows(kv_head, step_.length[seq] + i));
    if (!a_.k) return;
    int64_t to = step_.base(seq);
    for (int64_t row = step_.first[seq]; row < step_.first[seq + 1]; ++row, ++to) {
      // a page may come from another sequence, whose rows must not show in a saved state
      if (to % a_.cache.page_tokens == 0) rows.clear(kv_head, to);
      layout_.put(rows(kv_head, to), a_.k.f32(row) + kv_head * a_.head_dim,
                  a_.v.f32(row) + kv_head * a_.head_dim);
    }
  }

  // direct_[row]: the first keys of a row whose place in the cache is their logical position. In a tree a
  // node's place is its number in the step, which is its depth only as long as its ancestors are numbered
  // without gaps.
  void find_direct() {
    direct_ = context_.workspace.take<int64_t>(step_.t);
    for (int64_t row = 0; row < step_.t; ++row) {
      const int seq = step_.sequence[row];
      const int64_t before = step_.parent[row] < 0 ? step_.base(seq) : direct_[step_.parent[row]];
      const int64_t place = step_.base(seq) + row - step_.first[seq];
      direct_[row] = before == place && place == step_.position[row] ? place + 1 : before;
    }
  }

  void plan_tiles() {
    const int64_t rows = tile_queries() / group_;
    int64_t capacity = 0;
    for (int seq = 0; seq < step_.seqs; ++seq)
      capacity += (step_.tokens_of(seq) + rows - 1) / rows * a_.kv_heads;
    tiles_ = context_.workspace.take<Tile>(capacity);
    for (int seq = 0; seq < step_.seqs; ++seq) {
      for (int64_t kv_head = 0; kv_head < a_.kv_heads; ++kv_head) {
        for (int64_t begin = step_.first[seq]; begin < step_.first[seq + 1]; begin += rows) {
          Tile tile{seq, kv_head, begin, std::min<int64_t>(begin + rows, step_.first[seq + 1]),
                    0,   0,       0,     direct_[begin]};
          int64_t first = lowest_key(begin), last = 0;
          for (int64_t row = tile.begin; row < tile.end; ++row) {
            tile.lowest = std::max(tile.lowest, lowest_key(row));
            tile.direct = std::min(tile.direct, direct_[row]);
            first = std::min(first, lowest_key(row));
            last = std::max<int64_t>(last, step_.position[row]);
            keys_ += (step_.position[row] - lowest_key(row) + 1) * group_;
          }
          tile.first_split = first / kSplit;
          tile.end_split = last / kSplit + 1;
          splits_ += tile.end_split - tile.first_split;
          tiles_[tile_count_++] = tile;
        }
      }
    }
  }

  // Whole tiles, or, where there are too few of them for the threads, the splits of each with a merge at the
  // end.
  void attend_all() {
    constexpr int64_t kSerialWork = 1 << 16;  // multiply-adds below which a second thread does not pay
    const bool serial = context_.threads == 1 || 2 * keys_ * a_.head_dim < kSerialWork;
    const int workers = serial ? 1 : Pool::instance().threads_for(context_.threads);
    if (workers == 1 || tile_count_ >= 2 * workers || splits_ == tile_count_) {
      // the last tiles of a prompt see most keys: first, so that no thread is left with them
      share(workers, tile_count_, [&](int64_t task, const Scratch& scratch) {
        attend_tile(tiles_[tile_count_ - 1 - task], scratch);
      });
      return;
    }
    const Running parts = take_running(splits_);
    int64_t* tile_of = context_.workspace.take<int64_t>(splits_);
    int64_t* first_part = context_.workspace.take<int64_t>(tile_count_);
    for (int64_t tile = 0, part = 0; tile < tile_count_; ++tile) {
      first_part[tile] = part;
      for (int64_t i = tiles_[tile].first_split; i < tiles_[tile].end_split; ++i) tile_of[part++] = tile;
    }
    share(workers, splits_, [&](int64_t part, const Scratch& scratch) {
      const Tile& tile = tiles_[tile_of[part]];
      attend_split(tile, tile.first_split + part - first_part[tile_of[part]], at(parts, part), scratch);
    });
    for (int64_t tile = 0; tile < tile_count_; ++tile) {
      const Running whole = at(parts, first_part[tile]);
      for (int64_t i = 1; i < tiles_[tile].end_split - tiles_[tile].first_split; ++i)
        merge(tiles_[tile], whole, at(parts, first_part[tile] + i));
      finish(tiles_[tile], whole);
    }
  }

  // Calls body(task, scratch of the worker) for tasks [0, count).
  template <class Body>
  void share(int workers, int64_t count, const Body& body) {
    Workspace& workspace = context_.workspace;
    Scratch* scratch = workspace.take<Scratch>(workers);
    for (int i = 0; i < workers; ++i)
      scratch[i] = {take_running(1),
                    take_running(1),
                    workspace.take<std::byte>(block_layout_.head_bytes()),
                    workspace.take<float>(2 * kKeyBlock * a_.head_dim),
                    workspace.take<const float*>(tile_queries()),
                    workspace.take<float>(tile_queries()),
                    workspace.take<float>(tile_queries())};
    std::atomic<int64_t> next{0};
    const auto work = [&](int worker) {
      for (int64_t task = next++; task < count; task = next++) body(task, scratch[worker]);
    };
    if (workers == 1)
      work(0);
    else
      Pool::instance().run(workers, workers, work);
  }

  Running take_running(int64_t tiles) {
    const int64_t queries = tiles * tile_queries();
    Workspace& workspace = context_.workspace;
    return {workspace.take<float>(queries * a_.head_dim), workspace.take<float>(queries),
            workspace.take<float>(queries)};
  }
  Running at(Running all, int64_t tile) const {
    const int64_t queries = tile * tile_queries();
    return {all.sum + queries * a_.head_dim, all.max + queries, all.total + queries};
  }

  void attend_tile(const Tile& tile, const Scratch& scratch) {
    attend_split(tile, tile.first_split, scratch.whole, scratch);
    for (int64_t split = tile.first_split + 1; split < tile.end_split; ++split) {
      attend_split(tile, split, scratch.part, scratch);
      merge(tile, scratch.whole, scratch.part);
    }
    finish(tile, scratch.whole);
  }

  void attend_split(const Tile& tile, int64_t split, Running running, const Scratch& scratch) {
    const int64_t queries = (tile.end - tile.begin) * group_, d = a_.head_dim;
    std::fill_n(running.sum, queries * d, 0.0f);
    std::fill_n(running.max, queries, -std::numeric_limits<float>::infinity());
    std::fill_n(running.total, queries, 0.0f);
    for (int64_t start = split * kSplit; start < (split + 1) * kSplit; start += kKeyBlock) {
      if (tile.lowest <= start && start + kKeyBlock <= tile.direct) {
        attend_block(tile, tile.begin, tile.end, start, 0, kKeyBlock, running, scratch);
        continue;
      }
      for (int64_t row = tile.begin; row < tile.end; ++row) {
        const int64_t first = std::max(lowest_key(row) - start, int64_t{0});
        const int64_t last = std::min<int64_t>(step_.position[row] + 1 - start, kKeyBlock);
        if (first < last)
          attend_block(tile, row, row + 1, start, static_cast<int>(first), static_cast<int>(last), running,
                       scratch);
      }
    }
  }

  // Keys [start + first, start + last), which rows [begin, end) of the tile all see.
  void attend_block(const Tile& tile, int64_t begin, int64_t end, int64_t start, int first, int last,
                    Running running, const Scratch& scratch) {
    const int64_t offset = (begin - tile.begin) * group_, queries = (end - begin) * group_, d = a_.head_dim;
    AttentionBlock block{};
    block.first = first;
    block.last = last;
    block.head_dim = d;
    block.scale = a_.scale;
    block.softcap = a_.softcap;
    block.room = scratch.room;
    place_block(tile, begin, start, block, scratch);
    for (int64_t row = begin, query = 0; row < end; ++row) {
      for (int64_t head = tile.kv_head * group_; head < (tile.kv_head + 1) * group_; ++head, ++query) {
        scratch.q[query] = a_.q.f32(row) + head * d;
        if (!a_.alibi) continue;
        scratch.slope[query] = a_.alibi.f32()[head];
        scratch.ahead[query] = static_cast<float>(start - step_.position[row]);
      }
    }
    if (a_.alibi) {
      block.slope = scratch.slope;
      block.ahead = scratch.ahead;
    }
    block.queries = queries;
    block.q = scratch.q;
    block.sum = running.sum + offset * d;
    block.max = running.max + offset;
    block.total = running.total + offset;
    kernel_(&block);
  }

  // The block where it lies, if a page holds it as the kernel wants it and every key is at its own place;
  // else a copy.
  void place_block(const Tile& tile, int64_t row, int64_t start, AttentionBlock& block,
                   const Scratch& scratch) const {
    const KvRows rows = rows_of(tile.seq);
    const auto at = [&](const KvRow& row) {
      block.keys = row.key;
      block.values = row.value;
      block.key_scale = row.key_scale;
      block.value_scale = row.value_scale;
    };
    if (layout_.width() == kKeyBlock && start + block.last <= direct_[row]) {
      at(rows(tile.kv_head, start));
      const int64_t following = start + kKeyBlock;
      if (following < direct_[row]) block.next = rows(tile.kv_head, following).key;
      return;
    }
    int64_t node = row;  // of the key that the loop is at, once it is past the direct ones
    for (int64_t key = start + block.last - 1; key >= start + block.first; --key) {
      int64_t place = key;
      if (key >= direct_[row]) {
        while (step_.position[node] > key) node = step_.parent[node];
        place = step_.base(tile.seq) + node - step_.first[tile.seq];
      }
      block_layout_.move(layout_, rows(tile.kv_head, place), block_layout_.row(scratch.block, key - start));
    }
    at(block_layout_.row(scratch.block, 0));
  }

  // whole = both; the order of the splits is the order of the calls.
  void merge(const Tile& tile, Running whole, Running part) const {
    const int64_t d = a_.head_dim;
    for (int64_t i = 0; i < (tile.end - tile.begin) * group_; ++i) {
      const float* part_sum = part.sum + i * d;
      float* sum = whole.sum + i * d;
      if (part.total[i] == 0) continue;  // a split outside the window of this row
      if (whole.total[i] == 0) {
        whole.max[i] = part.max[i];
        whole.total[i] = part.total[i];
        std::copy_n(part_sum, d, sum);
        continue;
      }
      const float max = std::max(whole.max[i], part.max[i]);
      const float left = std::exp(whole.max[i] - max), right = std::exp(part.max[i] - max);
      whole.max[i] = max;
      whole.total[i] = whole.total[i] * left + part.total[i] * right;
      for (int64_t j = 0; j < d; ++j) sum[j] = sum[j] * left + part_sum[j] * right;
    }
  }

  void finish(const Tile& tile, Running running) const {
    for (int64_t row = tile.begin; row < tile.end; ++row) {
      for (int64_t i = 0; i < group_; ++i) {
        const int64_t query = (row - tile.begin) * group_ + i, head = tile.kv_head * group_ + i;
        float total = running.total[query], scale = 1.0f;
        if (a_.sinks) {
          const float sink = a_.sinks.f32()[head], max = std::max(running.max[query], sink);
          scale = std::exp(running.max[query] - max);
          total = total * scale + std::exp(sink - max);
        }
        scale /= total;
        float* y = a_.y.f32(row) + head * a_.head_dim;
        for (int64_t j = 0; j < a_.head_dim; ++j) y[j] = running.sum[query * a_.head_dim + j] * scale;
      }
    }
  }

  const FlashAttention& a_;
  Context& context_;
  const Step& step_;
  const int64_t heads_, group_;
  const KvLayout layout_, block_layout_;
  void (*const kernel_)(const AttentionBlock*);
  int64_t* direct_ = nullptr;
  Tile* tiles_ = nullptr;
  int64_t tile_count_ = 0, splits_ = 0, keys_ = 0;
};

}  // namespace

void flash_attention(const FlashAttention& a, Context& context) {
  const int64_t kv_width = a.k.dims[1], heads = a.head_dim > 0 ? a.q.dims[1] / a.head_dim : 0;
  if (heads < 1 || a.kv_heads < 1 || heads % a.kv_heads != 0)
    throw Error(Code::invalid_program, "flash_attention: q", "heads that are a multiple of kv_heads",
                std::to_string(heads));
  if (a.cache.page_tokens < 1 || a.cache.elements != 2 * kv_width)
    throw Error(Code::invalid_program, "flash_attention: cache",
                std::to_string(2 * kv_width) + " elements a token", std::to_string(a.cache.elements));
  const int64_t page_bytes =
      a.kv_heads * KvLayout(a.cache.dtype, a.head_dim, a.cache.page_tokens).head_bytes();
  if (a.cache.page_bytes != page_bytes)
    throw Error(Code::invalid_program, "flash_attention: cache", std::to_string(page_bytes) + " bytes a page",
                std::to_string(a.cache.page_bytes));
  Attention(a, context).run();
}

}  // namespace crosscurrent::cpu
