// Tile policies of the recurrent CUDA kernels: pure functions of device and shape.
#include <algorithm>
#include <iterator>

#include "harness.h"
#include "native/cuda/selective_scan_tile.h"
#include "native/cuda/ssd_tile.h"
#include "native/cuda/ssm_step_tile.h"

namespace crosscurrent::cuda {
namespace {

using test::expect;
using test::expect_equal;
using test::Test;

constexpr Arch kHopper{};
constexpr Arch kAmpere{.compute = 80, .sms = 108, .shared_bytes = 163 * 1024, .l2_bytes = 40 << 20};

const Test scan_shapes("selective_scan tile: one round of blocks where one is enough", [] {
  expect(selective_scan_tile(kHopper, 5120, 1) == SelectiveScanTile{40, 3},
         "5120 channels: 128 blocks of 40");
  expect(selective_scan_tile(kHopper, 1536, 1) == SelectiveScanTile{12, 10},
         "1536 channels: 128 blocks of 12");
  expect(selective_scan_tile(kHopper, 3072, 1) == SelectiveScanTile{24, 5},
         "3072 channels: 128 blocks of 24");
  expect(selective_scan_tile(kHopper, 1, 1) == SelectiveScanTile{12, 10}, "one channel");
});

const Test scan_tiles("selective_scan tile: always one that is compiled, of whole warps", [] {
  for (const SelectiveScanTile& tile : kScanTiles) {
    expect_equal(tile.channels % 4, 0, "channels mod 4");
    expect_equal(tile.channels * tile.splits % 8, 0, "threads mod 32");
    expect(4 * tile.channels * tile.splits <= 512, "128 registers a thread");
    const int sets = tile.channels / (tile.channels % 8 == 0 ? 8 : 4);
    expect(sets <= 15, "a named barrier for each set of channels");
  }
  for (const Arch& arch : {kHopper, kAmpere}) {
    for (int64_t channels = 1; channels < 20000; channels = channels * 5 / 4 + 1) {
      for (const int64_t seqs : {1, 3, 64}) {
        const SelectiveScanTile tile = selective_scan_tile(arch, channels, seqs);
        expect(std::find(std::begin(kScanTiles), std::end(kScanTiles), tile) != std::end(kScanTiles),
               "compiled");
      }
    }
  }
});

const Test step_tiles("ssd_step tile: many rows a thread only where blocks are many", [] {
  expect_equal(ssm_step_tile(kHopper, 80, 64, 128, 64).rows, 4, "64 sequences");
  expect_equal(ssm_step_tile(kHopper, 80, 64, 128, 1).rows, 1, "one sequence");
  expect_equal(ssm_step_tile(kHopper, 80, 64, 256, 64).rows, 2, "256 states: 64 floats a thread");
  expect_equal(ssm_step_tile(kHopper, 80, 65, 128, 64).rows, 1, "rows that blocks of 64 do not divide");
  expect_equal(ssm_step_tile(kHopper, 80, 64, 128, 64).block_rows(), 64, "rows of a block");
});

const Test ssd_shapes("ssd tile: tensor cores for the shapes that have them", [] {
  const auto chunked = [](const Arch& arch, bool aligned, int64_t head_dim, int64_t states) {
    return ssd_tile(arch, aligned, 80, head_dim, 1, states, 1, 8192).chunked;
  };
  expect(chunked(kHopper, true, 64, 128) && chunked(kAmpere, true, 64, 64), "64 rows of 64 or 128 states");
  expect(!chunked(kHopper, false, 64, 128), "rows that are not aligned, or f32");
  expect(!chunked(kHopper, true, 32, 128) && !chunked(kHopper, true, 64, 16), "other sizes");
  expect(!chunked({.compute = 75}, true, 64, 128), "no bf16 products");
  expect_equal(ssd_tile(kHopper, false, 80, 64, 1, 128, 1, 8192).workspace_bytes(), size_t{0},
               "workspace of the plain path");
});

const Test ssd_panels("ssd tile: panels cover all segments in a bounded workspace", [] {
  for (const int64_t t : {1, 511, 512, 513, 16384, 16385, 1000000}) {
    for (const int64_t seqs : {1, 2, 7, 1000}) {
      const SsdTile tile = ssd_tile(kHopper, true, 80, 64, 1, 128, seqs, t);
      // the most that `seqs` sequences of together t tokens can have: all but one cut short after a whole
      // segment
      const int64_t most = std::min(t, t / kSsdSegment + seqs);
      expect_equal(tile.segments, most, "segments");
      expect(tile.panel >= 1 && tile.panel <= kSsdPanel, "panel");
      expect(tile.panels() * tile.panel >= tile.segments && (tile.panels() - 1) * tile.panel < tile.segments,
             "cover");
      expect(tile.workspace_bytes() <= size_t{32} * 80 * (64 * 128 + 1) * 4 + 256, "workspace");
      expect_equal(tile.state_bytes % 256, size_t{0}, "the decays behind the states are aligned");
    }
  }
  expect_equal(ssd_tile(kHopper, true, 80, 64, 1, 128, 0, 0).panels(), int64_t{0}, "nothing to do");
  expect_equal(ssd_tile(kHopper, true, 6, 64, 2, 64, 1, 512).pairs, 2,
               "three heads a group: a pair and one alone");
});

}  // namespace
}  // namespace crosscurrent::cuda
