// How the rows of experts are cut for many tokens: pure functions of device and shape.
#include "harness.h"
#include "native/cuda/moe_prefill_tile.h"

namespace crosscurrent::cuda {
namespace {

using test::expect;
using test::expect_equal;
using test::Test;

const Test devices("moe_prefill tile: wgmma where there is wgmma", [] {
  expect(moe_prefill_tile(Arch{}) == kMoeWgmmaTile, "sm_90");
  for (const int compute : {80, 86, 89, 100, 120})
    expect(moe_prefill_tile(Arch{.compute = compute}) == kMoeMmaTile, "others");
});

const Test widths("moe_prefill tile: a width holds its rows and little more", [] {
  int last = 0;
  for (int rows = 0; rows <= kMoeMostWidth; ++rows) {
    const int width = moe_wgmma_width(rows);
    expect(width >= rows && width >= last, "room, and rising");
    expect(width % 8 == 0 && width <= kMoeMostWidth, "an instruction's width");
    expect(width - rows < (rows <= 96 ? 16 : 8) || width == 16, "no more than needed");
    expect_equal(moe_wgmma_width(width), width, "a width of its own rows");
    last = width;
  }
});

// Groups as the device cuts them: equal parts of each expert's rows.
const Test groups("moe_prefill tile: room for the groups of any routing", [] {
  for (const MoePrefillTile& tile : {kMoeWgmmaTile, kMoeMmaTile}) {
    for (const int64_t experts : {1, 8, 128, 512}) {
      for (const int64_t pairs : {1, 63, 64, 65, 352, 353, 5000, 32768}) {
        const int64_t most = moe_most_groups(tile, pairs, experts);
        const auto cut = [&](int64_t rows) { return ceil_div<int64_t>(rows, tile.group_rows); };
        expect(cut(pairs) <= most, "all to one expert");
        const int64_t active = std::min(pairs, experts);
        int64_t even = 0, uneven = cut(pairs - active + 1) + active - 1;
        for (int64_t e = 0; e < experts; ++e) even += cut(pairs / experts + (e < pairs % experts ? 1 : 0));
        expect(even <= most && uneven <= most, "even and uneven routing");
      }
    }
  }
});

const Test stretches("moe_prefill tile: few stretches of whole warps", [] {
  for (const int64_t pairs : {1, 511, 512, 513, 65536, 65537, 1 << 24}) {
    const int64_t stretch = moe_sort_stretch(pairs);
    expect_equal(stretch % 512, int64_t{0}, "16 warps of 32");
    expect(ceil_div(pairs, stretch) <= 128, "stretches");
  }
});

}  // namespace
}  // namespace crosscurrent::cuda
