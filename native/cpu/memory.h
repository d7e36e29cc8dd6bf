// Large zeroed blocks straight from the system, and how much of it is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace crosscurrent::cpu {

// Bytes this process can still take: what the system has available, cut by the limit of its cgroup.
uint64_t available_memory();

// Throws Code::out_of_memory, naming `what`, when `bytes` are more than that.
void require_memory(const std::string& what, uint64_t bytes);

// Zeroed pages, resident only once they are touched.
class PageBlock {
 public:
  PageBlock() = default;
  PageBlock(const std::string& what, uint64_t bytes);  // throws Code::out_of_memory
  ~PageBlock();
  PageBlock(PageBlock&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  PageBlock& operator=(PageBlock&& other) noexcept;

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace crosscurrent::cpu
