// How decode attention is cut. Keys are cut at absolute positions, whatever the batch: a row's bits then
// depend on its own sequence alone. Only how much is in flight depends on the device.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "arch.h"

namespace crosscurrent::cuda {

constexpr int kDecodeSplit = 256;    // keys of one partial result
constexpr int kDecodeTile = 16;      // keys a warp takes at a time; a page is a multiple of it
constexpr int kDecodeWarps = 4;      // tile i of a split belongs to warp i % kDecodeWarps
constexpr int kDecodeRows = 16;      // queries (nodes x heads of a kv head) of a block
constexpr int kDecodeMaxNodes = 64;  // of a sequence
constexpr int kDecodeMaxGroup = 64;  // query heads of a kv head

// What a cache holds. f8 is e4m3; f8 and i8 come with f32 scales (KvPages).
enum class KvType : uint8_t { bf16, f8, i8 };

constexpr int kv_bytes(KvType type) { return type == KvType::bf16 ? 2 : 1; }

constexpr bool decode_head_dim_is_known(int64_t head_dim) {
  return head_dim == 64 || head_dim == 96 || head_dim == 128 || head_dim == 256;
}

// Bytes of a row of keys in shared memory. Rows that are no power of two get one more vector, so that eight
// rows meet eight different banks; the others are swizzled.
constexpr int decode_row_bytes(int head_dim, KvType type) {
  return kv_bytes(type) * head_dim + (head_dim == 96 ? 16 : 0);
}

struct FlashAttentionDecodeTile {
  int stages;        // tiles of keys and values in flight a warp; 0: the device has too little shared memory
  int blocks;        // of a multiprocessor
  int shared_bytes;  // of a block

  bool operator==(const FlashAttentionDecodeTile&) const = default;
};

constexpr int decode_shared_bytes(int head_dim, int stages, KvType type) {
  const int ring = kDecodeWarps * stages * 2 * kDecodeTile * decode_row_bytes(head_dim, type);
  const int merge = kDecodeWarps * 8 * head_dim * 4;
  const int slots = kDecodeWarps * stages * 32, stats = kDecodeWarps * kDecodeRows * 8;
  const int scales = type == KvType::bf16 ? 0 : kDecodeWarps * stages * 2 * kDecodeTile * 4;
  return ring + merge + slots + stats + scales;
}

// Of a multiprocessor, by registers: widening 8 bits takes more instructions a byte, and they want more
// warps.
constexpr int decode_most_blocks(int head_dim, KvType type) {
  return head_dim == 256 ? 1 : type == KvType::bf16 ? 2 : 3;
}

// The two that are compiled: as many as leave room for the most blocks, and as few as smaller devices hold.
constexpr int decode_most_stages(int head_dim, KvType type) {
  if (type == KvType::bf16) return head_dim == 64 ? 6 : 3;
  return head_dim == 64 ? 6 : head_dim == 96 ? 4 : head_dim == 128 ? 3 : 5;
}
constexpr int decode_fewest_stages(KvType type) { return type == KvType::bf16 ? 2 : 3; }

// More than one block a multiprocessor where they fit: one streams while another merges its warps.
constexpr FlashAttentionDecodeTile flash_attention_decode_tile(const Arch& arch, int64_t head_dim,
                                                               KvType type) {
  const int dim = static_cast<int>(head_dim);
  const int most = decode_most_stages(dim, type);
  for (int blocks = decode_most_blocks(dim, type); blocks >= 1; --blocks) {
    for (const int stages : {most, decode_fewest_stages(type)}) {
      const int bytes = decode_shared_bytes(dim, stages, type);
      // a multiprocessor has 1 KiB more than its largest block, and each block costs 1 KiB
      if (blocks * (bytes + 1024) <= arch.shared_bytes + 1024) return {stages, blocks, bytes};
    }
  }
  return {0, 0, 0};
}

}  // namespace crosscurrent::cuda
