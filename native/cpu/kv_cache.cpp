#include "kv_cache.h"

#include <algorithm>
#include <string>

#include "../error.h"
#include "pool.h"

namespace crosscurrent::cpu {

KvPages::KvPages(DType dtype, int64_t kv_heads, int64_t head_dim, const std::vector<int64_t>& capacities)
    : kv_heads_(kv_heads), head_dim_(head_dim), layout_(dtype, head_dim, kPageTokens) {
  constexpr int64_t kMostPages = int64_t{1} << 26;
  int64_t most = 0, total = 0;
  for (const int64_t capacity : capacities) {
    const int64_t pages = (capacity + kPageTokens - 1) / kPageTokens;
    most = std::max(most, pages);
    total += pages;
    if (most > kMostPages || total > kMostPages)
      throw Error(Code::out_of_memory, "kv cache", "at most 2^31 rows", "more");
  }
  uint64_t bytes;
  if (__builtin_mul_overflow(static_cast<uint64_t>(total),
                             static_cast<uint64_t>(kv_heads * layout_.head_bytes()), &bytes))
    throw Error(Code::out_of_memory, "kv cache", "a size within 64 bits", "more");
  require_memory("kv cache", bytes);
  max_pages_ = static_cast<int32_t>(most);
  table_.assign(capacities.size() * static_cast<size_t>(most), 0);
  for (size_t seq = 0; seq < capacities.size(); ++seq)
    for (int64_t page = 0; page < (capacities[seq] + kPageTokens - 1) / kPageTokens; ++page)
      table_[seq * static_cast<size_t>(most) + static_cast<size_t>(page)] = pages_++;
  memory_ = PageBlock("kv cache", bytes);
}

StateView KvPages::view() const {
  StateView view;
  view.kind = StateKind::kv;
  view.pages = memory_.data();
  view.page_bytes = kv_heads_ * layout_.head_bytes();
  view.page_tokens = kPageTokens;
  view.dtype = layout_.dtype();
  view.elements = 2 * kv_heads_ * head_dim_;
  view.pending_elements = 1;
  return view;
}

void KvPages::write(int seq, int64_t row, int64_t count, const float* k, const float* v, int threads) {
  const StateView view = this->view();
  const KvRows rows = rows_of(view, seq);
  const int64_t kv_width = kv_heads_ * head_dim_;
  const int64_t blocks = (count + kPageTokens - 1) / kPageTokens;
  Pool::instance().run(static_cast<int>(blocks), threads, [&](int block) {
    const int64_t begin = int64_t{block} * kPageTokens, end = std::min(count, begin + kPageTokens);
    for (int64_t head = 0; head < kv_heads_; ++head) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t at = i * kv_width + head * head_dim_;
        layout_.put(rows(head, row + i), k + at, v + at);
      }
    }
  });
}

void KvCache::append(const float* k, const float* v, int64_t rows, int threads) {
  if (rows > capacity_ - length_)
    throw Error(Code::context_overflow, "KvCache: append", "room for " + std::to_string(rows) + " rows",
                std::to_string(capacity_ - length_));
  pages_.write(0, length_, rows, k, v, threads);
  length_ += rows;
}

void KvCache::truncate(int64_t length) {
  if (length < 0 || length > length_)
    throw Error(Code::invalid_argument, "KvCache: length", "0.." + std::to_string(length_),
                std::to_string(length));
  length_ = length;
}

}  // namespace crosscurrent::cpu
