// Keys and values of sequences outside a session, in the pages that flash_attention reads.
#pragma once

#include <cstdint>
#include <vector>

#include "kv_layout.h"
#include "memory.h"

namespace crosscurrent::cpu {

// Rows of `capacities.size()` sequences. Page p of a sequence holds its rows 32 p … 32 p + 31.
class KvPages {
 public:
  static constexpr int32_t kPageTokens = 32;

  // Throws out_of_memory.
  KvPages(DType dtype, int64_t kv_heads, int64_t head_dim, const std::vector<int64_t>& capacities);

  StateView view() const;
  int32_t max_pages() const { return max_pages_; }
  int32_t pages() const { return pages_; }
  const std::vector<int32_t>& table() const { return table_; }  // [seqs, max_pages]
  uint64_t bytes() const { return memory_.bytes(); }

  // Rows [row, row + count) of a sequence, split over the pool; k and v are [count, kv_heads * head_dim].
  void write(int seq, int64_t row, int64_t count, const float* k, const float* v, int threads);

 private:
  KvRows rows_of(const StateView& view, int seq) const {
    return {view, layout_, &table_[static_cast<size_t>(seq) * static_cast<size_t>(max_pages_)]};
  }

  int64_t kv_heads_, head_dim_;
  KvLayout layout_;
  int32_t max_pages_ = 0, pages_ = 0;
  std::vector<int32_t> table_;
  PageBlock memory_;
};

// Of one sequence, that grows.
class KvCache {
 public:
  KvCache(DType dtype, int64_t kv_heads, int64_t head_dim, int64_t capacity)
      : kv_heads_(kv_heads),
        head_dim_(head_dim),
        capacity_(capacity),
        pages_(dtype, kv_heads, head_dim, {capacity}) {}

  int64_t kv_heads() const { return kv_heads_; }
  int64_t head_dim() const { return head_dim_; }
  int64_t length() const { return length_; }
  const KvPages& pages() const { return pages_; }

  // Throws context_overflow.
  void append(const float* k, const float* v, int64_t rows, int threads);
  // Forgets rows from `length` on. Throws invalid_argument.
  void truncate(int64_t length);

 private:
  int64_t kv_heads_, head_dim_, capacity_, length_ = 0;
  KvPages pages_;
};

}  // namespace crosscurrent::cpu
