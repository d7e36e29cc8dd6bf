// Tile policies of decode attention and of the experts of few tokens: pure functions of device and shape.
#include "harness.h"
#include "native/cuda/flash_attention_decode_tile.h"
#include "native/cuda/moe_decode_tile.h"

namespace crosscurrent::cuda {
namespace {

using test::expect;
using test::expect_equal;
using test::Test;

constexpr Arch kHopper{};
constexpr Arch kAmpere{.compute = 80, .sms = 108, .shared_bytes = 163 * 1024, .l2_bytes = 40 << 20};
constexpr Arch kAda{.compute = 89, .sms = 128, .shared_bytes = 99 * 1024, .l2_bytes = 72 << 20};

const Test cuts("flash_attention_decode tile: splits are whole rounds of tiles, pages whole tiles", [] {
  expect_equal(kDecodeSplit % (kDecodeTile * kDecodeWarps), 0, "keys left over in a split");
  expect_equal(kDecodeTile, 16, "keys of one mma");
});

const Test hopper("flash_attention_decode tile: two or three blocks a multiprocessor where they fit", [] {
  const auto bf16 = [](int64_t dim) { return flash_attention_decode_tile(kHopper, dim, KvType::bf16); };
  expect(bf16(128) == FlashAttentionDecodeTile{3, 2, 115584}, "128");
  expect_equal(bf16(64).blocks, 2, "blocks of 64");
  expect_equal(bf16(64).stages, 6, "stages of 64");
  expect_equal(bf16(96).blocks, 2, "blocks of 96");
  expect_equal(bf16(256).blocks, 1, "blocks of 256");
  expect_equal(bf16(256).stages, 3, "stages of 256");
  for (const int dim : {64, 96, 128, 256}) {
    const FlashAttentionDecodeTile tile = flash_attention_decode_tile(kHopper, dim, KvType::i8);
    expect_equal(tile.blocks, dim == 256 ? 1 : 3, "blocks of 8 bits");
    expect_equal(tile.stages, decode_most_stages(dim, KvType::i8), "stages of 8 bits");
    expect(tile == flash_attention_decode_tile(kHopper, dim, KvType::f8), "f8 as i8");
  }
});

const Test fits("flash_attention_decode tile: fits every device, or says that it does not", [] {
  for (const Arch& arch : {kHopper, kAmpere, kAda}) {
    for (const int dim : {64, 96, 128, 256}) {
      for (const KvType type : {KvType::bf16, KvType::f8, KvType::i8}) {
        const FlashAttentionDecodeTile tile = flash_attention_decode_tile(arch, dim, type);
        if (tile.stages == 0) continue;
        expect(tile.shared_bytes <= arch.shared_bytes, "a block fits");
        expect(tile.blocks * (tile.shared_bytes + 1024) <= arch.shared_bytes + 1024, "all blocks fit");
        expect(tile.stages == decode_most_stages(dim, type) || tile.stages == decode_fewest_stages(type),
               "a number of stages that is compiled");
        expect_equal(tile.shared_bytes, decode_shared_bytes(dim, tile.stages, type), "bytes");
      }
    }
  }
  expect_equal(flash_attention_decode_tile(kAmpere, 256, KvType::bf16).stages, 2, "stages of 256 on sm_80");
  expect_equal(flash_attention_decode_tile(kAda, 256, KvType::bf16).stages, 0, "256 does not fit sm_89");
  expect(flash_attention_decode_tile(kAda, 128, KvType::bf16).stages > 0, "128 fits sm_89");
  expect(flash_attention_decode_tile(kAda, 128, KvType::i8).stages > 0, "128 of 8 bits fits sm_89");
});

const Test rows("flash_attention_decode tile: rows in shared memory are whole vectors, apart by banks", [] {
  for (const int dim : {64, 96, 128, 256}) {
    expect(decode_head_dim_is_known(dim), "known");
    for (const KvType type : {KvType::bf16, KvType::i8}) {
      const int bytes = decode_row_bytes(dim, type), vectors = bytes / 16;
      expect_equal(bytes % 16, 0, "whole vectors");
      expect(bytes == 64 || vectors % 8 == 0 || vectors % 2 == 1, "swizzled, or an odd number of vectors");
    }
  }
  expect(!decode_head_dim_is_known(80) && !decode_head_dim_is_known(0), "others");
});

const Test experts("moe_decode tile: all tokens of an expert at once", [] {
  for (int t = 1; t <= 64; ++t) {
    const int tiles = moe_decode_tile(t).token_tiles;
    expect(8 * tiles >= t, "room for all");
    expect(tiles == 1 || 4 * tiles < t, "no more than needed");
    expect(tiles == 1 || tiles == 2 || tiles == 4 || tiles == 8, "compiled");
  }
});

const Test rings(
    "moe_decode int4: rings and parts fit a block, two blocks of weights under way at least", [] {
      for (const int most : {1, 2, 4, 8}) {
        for (const bool is_down : {false, true}) {
          const int ring = moe_int4_ring_bytes(most, is_down);
          const int pairs = most > 2 ? kMoeInt4MostPairs : 8 * most * kMoeMostTopK;
          expect(kMoeWarps * ring + (is_down ? pairs * kMoePartBytes : 0) <= kHopper.shared_bytes, "fits");
          expect_equal(ring % 128, 0, "rings begin aligned");
          for (const int tiles : {1, 2, most})
            if (tiles <= most) expect(moe_int4_stages(tiles, ring) >= 2, "stages");
        }
      }
      expect_equal(moe_int4_stages(1, moe_int4_ring_bytes(1, false)), 8, "of one token's weights");
    });

}  // namespace
}  // namespace crosscurrent::cuda
