// What a CPU kernel gets besides its operands.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "../step.h"
#include "pool.h"

namespace crosscurrent::cpu {

// Activations of `linear` and `moe`: int8 per 32 values, or f32 as they are.
enum class Precision : int32_t { int8 = 0, exact = 1 };

// Working memory of one op. Blocks live until `reset`, which keeps the largest for the next op.
class Workspace {
 public:
  template <class T>
  T* take(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    if (blocks_.empty() || used_ + bytes > blocks_.back().bytes) grow(bytes);
    std::byte* place = blocks_.back().start + used_;
    used_ += bytes;
    return reinterpret_cast<T*>(place);
  }
  void reset() {
    if (blocks_.size() > 1) blocks_.erase(blocks_.begin(), blocks_.end() - 1);
    used_ = 0;
  }

 private:
  static constexpr size_t kAlign = 64;
  struct Block {
    std::unique_ptr<std::byte[]> memory;
    std::byte* start;
    size_t bytes;
  };
  void grow(size_t bytes) {
    size_t size = blocks_.empty() ? size_t{1} << 16 : blocks_.back().bytes * 2;
    while (size < bytes) size *= 2;
    Block block{std::make_unique_for_overwrite<std::byte[]>(size + kAlign), nullptr, size};
    const auto address = reinterpret_cast<uintptr_t>(block.memory.get());
    block.start = block.memory.get() + (kAlign - address % kAlign) % kAlign;
    blocks_.push_back(std::move(block));
    used_ = 0;
  }
  std::vector<Block> blocks_;
  size_t used_ = 0;
};

struct Context {
  const Step& step;
  Workspace& workspace;  // reset before every op
  int threads;
  Precision precision;
};

}  // namespace crosscurrent::cpu
