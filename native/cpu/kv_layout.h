// Where keys and values lie in a page of a kv state, and as what.
//
// A page is one part a kv head: first its keys, [page_tokens / width][head_dim][width], then its values,
// [page_tokens][head_dim]. `width` keys lie side by side, so that the scores of 8 keys are one chain of
// vector multiply-adds with no sum across lanes; 32 (a block of the kernel) where the page size allows.
//
// bf16 elements lie in pairs, so that a 32-bit lane is two of them as they follow each other in a sum:
// neighbours of a key, [page_tokens / width][head_dim / 2][width][2], and of the values of two tokens,
// [page_tokens / 2][head_dim][2]. int8 rows have one f32 scale each: first those of the keys, then of the
// values, behind both.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "../tensor.h"

namespace crosscurrent::cpu {

inline constexpr int kKeyBlock = 32;

// The types that a cache can have, by the names that users know: f32, f16, bf16 and int8.
std::string_view kv_name(DType dtype);
DType required_kv(const char* operand, std::string_view name);  // throws invalid_argument, naming them

// A key and a value of one token and one kv head, where they lie.
struct KvRow {
  std::byte *key, *value;          // their first elements
  float *key_scale, *value_scale;  // null where there are none
};

class KvLayout {
 public:
  KvLayout(DType dtype, int64_t head_dim, int64_t page_tokens);

  DType dtype() const { return dtype_; }
  int64_t head_dim() const { return head_dim_; }
  int64_t head_bytes() const { return head_bytes_; }  // a kv head's part of a page
  int64_t width() const { return width_; }
  // Of a token of the part that starts at `head`.
  KvRow row(std::byte* head, int64_t token) const;

  // Rounds a key and a value of head_dim elements. What is finite stays finite: f16 and bf16 end at their
  // largest number. A row that is not finite is all NaN in int8.
  void put(const KvRow& row, const float* k, const float* v) const;
  void get(const KvRow& row, float* k, float* v) const;
  // Moves a row as it is, out of a page of the same type and head_dim.
  void move(const KvLayout& from_layout, const KvRow& from, const KvRow& to) const;

 private:
  // Elements from the first element of a row.
  int64_t key_at(int64_t element) const { return element / pair_ * width_ * pair_ + element % pair_; }

  DType dtype_;
  int64_t head_dim_, page_tokens_, width_;
  int64_t element_bytes_, pair_;
  int64_t key_row_;                       // elements of a key with those that fill its last pair
  int64_t values_, scales_, head_bytes_;  // bytes from the start of a head's part
};

// The rows of one sequence: row r is token r % page_tokens of page pages[r / page_tokens].
class KvRows {
 public:
  KvRows(const StateView& cache, const KvLayout& layout, const int32_t* pages)
      : cache_(cache), layout_(layout), pages_(pages) {}

  KvRow operator()(int64_t kv_head, int64_t row) const {
    return layout_.row(head(kv_head, row), row % cache_.page_tokens);
  }
  // Zeroes the kv head's part of the page that holds `row`.
  void clear(int64_t kv_head, int64_t row) const {
    std::memset(head(kv_head, row), 0, static_cast<size_t>(layout_.head_bytes()));
  }

 private:
  std::byte* head(int64_t kv_head, int64_t row) const {
    return cache_.page(pages_[row / cache_.page_tokens]) + kv_head * layout_.head_bytes();
  }

  const StateView& cache_;
  const KvLayout& layout_;
  const int32_t* pages_;
};

}  // namespace crosscurrent::cpu
