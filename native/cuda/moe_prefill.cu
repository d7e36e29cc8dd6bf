// moe of many tokens: checks, workspace, and the five launches in order.
#include <algorithm>

#include "moe_prefill.h"
#include "moe_prefill_kernels.h"
#include "router.h"

namespace crosscurrent::cuda {
namespace {

// Where each part of the workspace begins.
struct Layout {
  size_t bytes = 0;
  size_t arrived, group_count, groups, stretch_first, row_token, pair_row, hidden, rows;

  Layout(const MoePrefillArgs& a, const MoePrefillTile& tile) {
    const int64_t pairs = a.t * a.top_k;
    arrived = take(sizeof(uint32_t));
    group_count = take(sizeof(int32_t));
    groups = take(sizeof(MoeGroup) * static_cast<size_t>(moe_most_groups(tile, pairs, a.experts)));
    const int64_t stretches = ceil_div(pairs, moe_sort_stretch(pairs));
    stretch_first = take(sizeof(int32_t) * static_cast<size_t>(stretches * a.experts));
    row_token = take(sizeof(int32_t) * static_cast<size_t>(pairs));
    pair_row = take(sizeof(int32_t) * static_cast<size_t>(pairs));
    hidden = take(sizeof(bf16) * static_cast<size_t>(pairs * a.ff));
    rows = take(sizeof(bf16) * static_cast<size_t>(pairs * a.dim));
  }

 private:
  size_t take(size_t part) {
    const size_t at = bytes;
    bytes += round_up<size_t>(part, 256);
    return at;
  }
};

void check_args(const MoePrefillArgs& a) {
  const auto within = [](const char* operand, int64_t value, int64_t least, int64_t most) {
    check(value >= least && value <= most, operand, std::to_string(least) + " to " + std::to_string(most),
          value);
  };
  within("moe_prefill: experts", a.experts, 1, kRouterMaxExperts);
  within("moe_prefill: top_k", a.top_k, 1, std::min<int64_t>(a.experts, kRouterMaxTopK));
  within("moe_prefill: t", a.t, 0, (1 << 24) / a.top_k);
  const auto width = [](const char* operand, int64_t value) {
    check(value >= 8 && value % 8 == 0 && value <= 1 << 20, operand, "a multiple of 8, at most 2^20", value);
  };
  width("moe_prefill: dim", a.dim);
  width("moe_prefill: ff", a.ff);
  // 32-bit rows of weights (TMA) and vectors of y
  check(a.experts * std::max(a.dim, a.ff) <= 1 << 30, "moe_prefill: experts * max(dim, ff)", "at most 2^30",
        a.experts * std::max(a.dim, a.ff));
  check(a.t * a.dim <= int64_t{1} << 33, "moe_prefill: t * dim", "at most 2^33", a.t * a.dim);
}

}  // namespace

size_t moe_prefill_workspace(const MoePrefillArgs& args, const MoePrefillTile& tile) {
  check_args(args);
  return args.t == 0 ? 0 : Layout(args, tile).bytes;
}

size_t moe_prefill_workspace(const MoePrefillArgs& args) {
  return moe_prefill_workspace(args, moe_prefill_tile(current_arch()));
}

void moe_prefill(const MoePrefillArgs& a, const MoePrefillTile& tile, Workspace workspace,
                 cudaStream_t stream) {
  check_args(a);
  if (a.t == 0) return;
  check_pointer("moe_prefill: x", a.x, 16);
  check_pointer("moe_prefill: ids", a.ids, 4);
  check_pointer("moe_prefill: weights", a.weights, 4);
  check_pointer("moe_prefill: gate", a.gate, 16);
  if (a.up != nullptr) check_pointer("moe_prefill: up", a.up, 16);
  check_pointer("moe_prefill: down", a.down, 16);
  check_pointer("moe_prefill: y", a.y, 16);
  if (a.loads != nullptr) check_pointer("moe_prefill: loads", a.loads, 4);
  const Arch& arch = current_arch();
  check(arch.compute >= 80, "moe_prefill: architecture", "compute capability 8.0 or later", arch.compute);
  check(!tile.has_wgmma || arch.has_wgmma(), "moe_prefill: tile", "one without wgmma", "wgmma");
  const Layout layout(a, tile);
  check_workspace("moe_prefill: workspace", workspace, layout.bytes);

  auto* const base = static_cast<std::byte*>(workspace.data);
  const auto ints = [base](size_t offset) { return reinterpret_cast<int32_t*>(base + offset); };
  auto* const hidden = reinterpret_cast<bf16*>(base + layout.hidden);
  auto* const rows = reinterpret_cast<bf16*>(base + layout.rows);
  const int64_t pairs = a.t * a.top_k, stretch = moe_sort_stretch(pairs);
  const MoeRoute route{.ids = a.ids,
                       .pairs = static_cast<int>(pairs),
                       .experts = static_cast<int>(a.experts),
                       .top_k = a.top_k,
                       .stretch = static_cast<int>(stretch),
                       .stretches = static_cast<int>(ceil_div(pairs, stretch)),
                       .most_group_rows = tile.group_rows,
                       .loads = a.loads,
                       .stretch_first = ints(layout.stretch_first),
                       .arrived = reinterpret_cast<uint32_t*>(base + layout.arrived),
                       .group_count = ints(layout.group_count),
                       .groups = reinterpret_cast<MoeGroup*>(base + layout.groups),
                       .row_token = ints(layout.row_token),
                       .pair_row = ints(layout.pair_row)};
  const MoeMatmul in{.x = a.x,
                     .x_rows = a.t,
                     .row_token = route.row_token,
                     .left = a.gate,
                     .right = a.up,
                     .y = hidden,
                     .is_down = false,
                     .activation = a.activation,
                     .n = static_cast<int>(a.ff),
                     .k = static_cast<int>(a.dim),
                     .experts = static_cast<int>(a.experts),
                     .groups = route.groups,
                     .group_count = route.group_count,
                     .most_groups = moe_most_groups(tile, pairs, a.experts)};
  MoeMatmul out = in;
  out.x = hidden, out.x_rows = pairs, out.row_token = nullptr;
  out.left = a.down, out.right = nullptr;
  out.y = rows;
  out.is_down = true, out.activation = Activation::none;
  out.n = in.k, out.k = in.n;

  const auto multiply = tile.has_wgmma ? moe_matmul_sm90 : moe_matmul_mma;
  moe_route(route, stream);
  multiply(in, stream);
  multiply(out, stream);
  moe_combine(a, route.pair_row, rows, stream);
}

void moe_prefill(const MoePrefillArgs& args, Workspace workspace, cudaStream_t stream) {
  moe_prefill(args, moe_prefill_tile(current_arch()), workspace, stream);
}

}  // namespace crosscurrent::cuda
