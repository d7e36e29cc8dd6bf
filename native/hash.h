// FNV-1a, 64 bits: tells things apart that differ by accident, not by intent.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace crosscurrent {

class Fnv1a {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) hash_ = (hash_ ^ static_cast<uint64_t>(byte)) * 0x100000001b3;
  }
  void add_word(uint64_t word) { add(std::as_bytes(std::span(&word, 1))); }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xcbf29ce484222325;
};

}  // namespace crosscurrent
