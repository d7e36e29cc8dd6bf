// Where keys and values lie in a page of a kv state.
//
// A page is one part a kv head: first its keys, [page_tokens / width][head_dim][width], then its values,
// [page_tokens][head_dim]. `width` keys lie side by side, so that the scores of 8 keys are one chain of
// vector multiply-adds with no sum across lanes; 32 (a block of the kernel) where the page size allows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../tensor.h"

namespace crosscurrent::cpu {

inline constexpr int kKeyBlock = 32;

class KvLayout {
 public:
  KvLayout(int64_t kv_heads, int64_t head_dim, int64_t page_tokens)
      : kv_heads_(kv_heads),
        head_dim_(head_dim),
        page_tokens_(page_tokens),
        width_(std::min<int64_t>(kKeyBlock, page_tokens & -page_tokens)) {}

  int64_t page_elements() const { return 2 * kv_heads_ * head_dim_ * page_tokens_; }
  int64_t width() const { return width_; }

  // Elements from the start of a page. Element d of a key is `width()` elements after element d - 1; values
  // are contiguous.
  int64_t key(int64_t kv_head, int64_t token) const {
    return head(kv_head) + token / width_ * width_ * head_dim_ + token % width_;
  }
  int64_t value(int64_t kv_head, int64_t token) const {
    return head(kv_head) + (page_tokens_ + token) * head_dim_;
  }
  int64_t head(int64_t kv_head) const { return kv_head * head_elements(); }
  int64_t head_elements() const { return 2 * page_tokens_ * head_dim_; }

 private:
  int64_t kv_heads_, head_dim_, page_tokens_, width_;
};

// The rows of one sequence: row r is token r % page_tokens of page pages[r / page_tokens].
class KvRows {
 public:
  KvRows(const StateView& cache, const KvLayout& layout, const int32_t* pages)
      : cache_(cache), layout_(layout), pages_(pages) {}

  float* key(int64_t kv_head, int64_t row) const {
    return page(row) + layout_.key(kv_head, row % cache_.page_tokens);
  }
  float* value(int64_t kv_head, int64_t row) const {
    return page(row) + layout_.value(kv_head, row % cache_.page_tokens);
  }
  // Zeroes the kv head's part of the page that holds `row`.
  void clear(int64_t kv_head, int64_t row) const {
    std::fill_n(page(row) + layout_.head(kv_head), layout_.head_elements(), 0.0f);
  }

 private:
  float* page(int64_t row) const { return cache_.page(pages_[row / cache_.page_tokens]); }

  const StateView& cache_;
  const KvLayout& layout_;
  const int32_t* pages_;
};

}  // namespace crosscurrent::cpu
