// Views of memory that kernels read and write. They own nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dtype.h"

namespace crosscurrent {

// Rank <= 4, outermost axis first; every axis but the first is contiguous.
struct Tensor {
  std::byte* data = nullptr;     // first element; null for an absent optional operand and for packed weights
  const void* packed = nullptr;  // a weight in the backend's own layout
  DType dtype = DType::f32;
  int32_t rank = 0;
  int64_t dims[4] = {1, 1, 1, 1};
  int64_t row_stride = 0;  // elements from one row of the first axis to the next

  explicit operator bool() const { return data != nullptr || packed != nullptr; }
  float* f32(int64_t row = 0) const { return reinterpret_cast<float*>(data) + row * row_stride; }
  int32_t* i32(int64_t row = 0) const { return reinterpret_cast<int32_t*>(data) + row * row_stride; }
};

enum class StateKind : int32_t { kv = 0, conv = 1, scan = 2 };

// A recurrent state, f32, or a cache. What the elements of a unit mean is the affair of the op that owns the
// state.
//   kv:         pages [pages, page_bytes] of elements kept as `dtype`; rows after a sequence's length are its
//               pending ones
//   conv, scan: committed [slots, elements], pending [slots, window, pending_elements]
struct StateView {
  StateKind kind = StateKind::kv;
  float* committed = nullptr;
  float* pending = nullptr;
  int64_t elements = 0;  // of a slot, or of a token in the cache
  int64_t pending_elements = 0;
  int32_t window = 0;  // most pending tokens a slot can hold
  std::byte* pages = nullptr;
  int64_t page_bytes = 0;
  int32_t page_tokens = 0;
  DType dtype = DType::f32;

  float* slot(int64_t index) const { return committed + index * elements; }
  std::byte* page(int64_t index) const { return pages + index * page_bytes; }
  float* pending_row(int64_t slot_index, int64_t node) const {
    return pending + (slot_index * window + node) * pending_elements;
  }
};

}  // namespace crosscurrent
