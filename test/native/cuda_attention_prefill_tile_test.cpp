// Tile policy of prefill attention: a pure function of device and shape.
#include "harness.h"
#include "native/cuda/flash_attention_prefill_tile.h"

namespace crosscurrent::cuda {
namespace {

using test::expect;
using test::expect_equal;
using test::Test;

constexpr Arch kHopper{};
constexpr Arch kAmpere{.compute = 80, .sms = 108, .shared_bytes = 163 * 1024, .l2_bytes = 40 << 20};
constexpr Arch kAda{.compute = 89, .sms = 128, .shared_bytes = 99 * 1024, .l2_bytes = 72 << 20};
constexpr int kDims[] = {64, 96, 128, 256};

const Test known("flash_attention_prefill tile: head dims", [] {
  for (const int dim : kDims) expect(prefill_head_dim_is_known(dim), "known");
  for (const int dim : {0, 32, 80, 192, 512}) expect(!prefill_head_dim_is_known(dim), "others");
  expect_equal(prefill_panels(64), 1, "panels of 64");
  expect_equal(prefill_panels(96), 2, "panels of 96");
  expect_equal(prefill_panels(256), 4, "panels of 256");
});

const Test wgmma("flash_attention_prefill tile: fits the registers and the shared memory of Hopper", [] {
  for (const bool is_modified : {false, true}) {
    for (const int dim : kDims) {
      const FlashAttentionPrefillTile tile = flash_attention_prefill_tile(dim, is_modified);
      expect(prefill_shared_bytes(dim, is_modified) <= kHopper.shared_bytes, "a block fits");
      const int launched = 65536 / tile.threads() / 8 * 8;  // what the compiler may give every thread
      expect(128 * (tile.producer_registers + tile.warpgroups * tile.consumer_registers) <=
                 launched * tile.threads(),
             "registers that move between warpgroups are there");
      const int held = tile.keys / 2 + tile.keys / 4 + dim / 2;  // scores, weights, sums
      expect(held + 24 <= tile.consumer_registers, "a consumer has some to spare");
      expect(tile.rows() <= 256 && tile.keys <= 256, "one box of a TMA load");
      expect((tile.keys & (tile.keys - 1)) == 0 && tile.keys >= 16,
             "pages divide a block of keys, or it them");
      expect(tile.keys / 16 * prefill_panels(dim) <= 32, "a lane a box, with the smallest pages");
      expect(tile.stages >= 2 && (tile.stages & (tile.stages - 1)) == 0, "stages, a power of two");
      expect(tile.query_stages == 1 || tile.query_stages == 2, "stages of queries");
      expect_equal(prefill_panels(dim) % prefill_output_panels(dim), 0, "y is stored in whole parts");
    }
  }
});

const Test mma("flash_attention_prefill tile: the mma.sync kernel fits from sm_80 on, up to head_dim 256",
               [] {
                 for (const Arch& arch : {kHopper, kAmpere, kAda})
                   for (const int dim : kDims)
                     expect(prefill_mma_shared_bytes(dim) <= arch.shared_bytes, "a block fits");
               });

const Test sections("flash_attention_prefill tile: sections of heads fill half of L2", [] {
  expect_equal(prefill_section_keys(kHopper, 128), (50 << 20) / 2 / 512, "keys of one head of 128");
  expect(prefill_section_keys({.l2_bytes = int64_t{1} << 50}, 64) == INT32_MAX, "at most what an int holds");
});

}  // namespace
}  // namespace crosscurrent::cuda
