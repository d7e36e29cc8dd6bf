// ssd, prefill (ssd.h): three launches a panel of segments (ssd_chunk.cuh), or one that goes token after
// token.
//
// The chunked path reads x twice, once for the states between segments, and writes y once; per segment and
// head it also moves a state [64, states] in f32 three times. Bound by tensor cores and by reads of shared
// memory.
#include <algorithm>

#include "launch.cuh"
#include "ssd.h"
#include "ssd_chunk.cuh"
#include "ssd_tile.h"

namespace crosscurrent::cuda {
namespace {

constexpr int kPlainLanes = 8;  // threads a row of the state
constexpr int kPlainRows = kSsdThreads / kPlainLanes;
constexpr int kPlainStates = kSsdMaxStates / kPlainLanes;

// A block takes 16 rows of one head of one sequence; thread l of a row has states l, l + 8, ...
template <class T>
__global__ void __launch_bounds__(kSsdThreads) ssd_plain_kernel(const __grid_constant__ SsdArgs args) {
  const int seq = blockIdx.y, head_dim = static_cast<int>(args.head_dim),
            states = static_cast<int>(args.states);
  const int row_blocks = (head_dim + kPlainRows - 1) / kPlainRows;
  const int head = static_cast<int>(blockIdx.x) / row_blocks;
  const int row = static_cast<int>(blockIdx.x) % row_blocks * kPlainRows + threadIdx.x / kPlainLanes;
  const int lane = threadIdx.x % kPlainLanes;
  const bool exists = row < head_dim;
  const int64_t first = args.sequences.first[seq], end = args.sequences.first[seq + 1];
  if (first == end) return;
  float* const at = args.s + ((args.sequences.slot[seq] * args.heads + head) * head_dim + row) * states;
  const bool is_new = args.sequences.length[seq] == 0;
  float s[kPlainStates];
#pragma unroll
  for (int i = 0; i < kPlainStates; ++i) {
    const int n = lane + i * kPlainLanes;
    s[i] = exists && !is_new && n < states ? at[n] : 0.0f;
  }
  const float dt_bias = args.dt_bias[head], rate = args.a[head] * kLog2E, d = args.d[head];
  const int64_t x_column = int64_t{head} * head_dim + (exists ? row : 0);
  const int64_t b_column = head * args.groups / args.heads * states;
  for (int64_t token = first; token < end; ++token) {
    float delta = softplus(to_float(static_cast<const T*>(args.dt)[token * args.dt_stride + head]) + dt_bias);
    delta = delta < args.dt_min ? args.dt_min : delta > args.dt_max ? args.dt_max : delta;  // a NaN stays
    const float decay = exp2_fast(delta * rate);
    const float x = to_float(static_cast<const T*>(args.x)[token * args.x_stride + x_column]), dx = delta * x;
    const T* const b = static_cast<const T*>(args.b) + token * args.b_stride + b_column;
    const T* const c = static_cast<const T*>(args.c) + token * args.c_stride + b_column;
    float y = 0;
#pragma unroll
    for (int i = 0; i < kPlainStates; ++i) {
      const int n = lane + i * kPlainLanes;
      if (n >= states) break;
      s[i] = __fmaf_rn(decay, s[i], dx * to_float(b[n]));
      y = __fmaf_rn(to_float(c[n]), s[i], y);
    }
#pragma unroll
    for (int offset = 1; offset < kPlainLanes; offset *= 2) y += __shfl_xor_sync(0xFFFFFFFF, y, offset);
    if (exists && lane == 0)
      static_cast<T*>(args.y)[token * args.y_stride + x_column] = from_float<T>(__fmaf_rn(d, x, y));
  }
#pragma unroll
  for (int i = 0; i < kPlainStates; ++i) {
    const int n = lane + i * kPlainLanes;
    if (exists && n < states) at[n] = s[i];
  }
}

void check_args(const SsdArgs& args) {
  check(args.dtype == DType::bf16 || args.dtype == DType::f32, "ssd: dtype", "bf16 or f32",
        std::string(dtype_info(args.dtype).name));
  check(args.heads >= 1 && args.heads <= 65535, "ssd: heads", "1 to 65535", args.heads);
  check(args.head_dim >= 1 && args.head_dim <= 65535, "ssd: head_dim", "1 to 65535", args.head_dim);
  check(args.groups >= 1 && args.heads % args.groups == 0, "ssd: groups", "a divisor of heads", args.groups);
  check(args.states >= 1 && args.states <= kSsdMaxStates, "ssd: states", "1 to 256", args.states);
  check(args.sequences.seqs >= 0 && args.sequences.seqs <= 65535, "ssd: seqs", "0 to 65535",
        args.sequences.seqs);
  check(args.sequences.t >= 0 && args.sequences.t < int64_t{1} << 31, "ssd: t", "0 to 2^31 - 1",
        args.sequences.t);
}

void check_pointers(const SsdArgs& args) {
  const size_t element = args.dtype == DType::bf16 ? 2 : 4;
  check_pointer("ssd: x", args.x, element);
  check_pointer("ssd: dt", args.dt, element);
  check_pointer("ssd: dt_bias", args.dt_bias, 4);
  check_pointer("ssd: a", args.a, 4);
  check_pointer("ssd: b", args.b, element);
  check_pointer("ssd: c", args.c, element);
  check_pointer("ssd: d", args.d, 4);
  check_pointer("ssd: s", args.s, 16);
  check_pointer("ssd: y", args.y, element);
  check(args.y != args.x, "ssd: y", "memory of its own", "x");
  check_pointer("ssd: first", args.sequences.first, 4);
  check_pointer("ssd: slot", args.sequences.slot, 4);
  check_pointer("ssd: length", args.sequences.length, 4);
  const auto check_stride = [](const char* operand, int64_t stride, int64_t width) {
    check(stride >= width, operand, "at least " + std::to_string(width), stride);
  };
  check_stride("ssd: x_stride", args.x_stride, args.heads * args.head_dim);
  check_stride("ssd: dt_stride", args.dt_stride, args.heads);
  check_stride("ssd: b_stride", args.b_stride, args.groups * args.states);
  check_stride("ssd: c_stride", args.c_stride, args.groups * args.states);
  check_stride("ssd: y_stride", args.y_stride, args.heads * args.head_dim);
}

SsdTile tile_of(const SsdArgs& args) {
  const auto rows = [](const void* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 8 == 0;
  };
  const bool aligned = args.dtype == DType::bf16 && rows(args.x, args.x_stride) &&
                       rows(args.b, args.b_stride) && rows(args.c, args.c_stride) &&
                       rows(args.y, args.y_stride);
  return ssd_tile(current_arch(), aligned, args.heads, args.head_dim, args.groups, args.states,
                  args.sequences.seqs, args.sequences.t);
}

template <int kStates>
void run_chunked(const SsdArgs& args, const SsdTile& tile, Workspace workspace, cudaStream_t stream) {
  auto* const states = static_cast<float*>(workspace.data);
  auto* const decays = reinterpret_cast<float*>(static_cast<std::byte*>(workspace.data) + tile.state_bytes);
  const auto head_blocks = static_cast<unsigned>(tile.pairs * args.groups);
  const int64_t elements = args.heads * args.head_dim * args.states;
  for (int64_t panel = 0; panel < tile.panels(); ++panel) {
    const int64_t first = panel * tile.panel;
    const auto units = static_cast<unsigned>(std::min(tile.panel, tile.segments - first));
    const dim3 grid(head_blocks, units);
    launch(ssd_chunk_kernel<kStates, false>,
           {.grid = grid,
            .block = dim3(kSsdThreads),
            .shared_bytes = sizeof(SsdShared<kStates, false>),
            .stream = stream},
           args, first, tile.pairs, states, decays);
    launch(ssd_states_kernel,
           {.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(elements, 1024)), units),
            .block = dim3(256),
            .stream = stream},
           args, first, static_cast<int>(units), states, decays);
    launch(ssd_chunk_kernel<kStates, true>,
           {.grid = grid,
            .block = dim3(kSsdThreads),
            .shared_bytes = sizeof(SsdShared<kStates, true>),
            .stream = stream},
           args, first, tile.pairs, states, decays);
  }
}

}  // namespace

size_t ssd_workspace(const SsdArgs& args) {
  check_args(args);
  return tile_of(args).workspace_bytes();
}

void ssd(const SsdArgs& args, Workspace workspace, cudaStream_t stream) {
  check_args(args);
  if (args.sequences.seqs == 0 || args.sequences.t == 0) return;
  check_pointers(args);
  const SsdTile tile = tile_of(args);
  if (tile.chunked) {
    check_workspace("ssd: workspace", workspace, tile.workspace_bytes());
    args.states == 64 ? run_chunked<64>(args, tile, workspace, stream)
                      : run_chunked<128>(args, tile, workspace, stream);
    return;
  }
  const int64_t blocks = args.heads * ceil_div<int64_t>(args.head_dim, kPlainRows);
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.sequences.seqs)),
      .block = dim3(kSsdThreads),
      .stream = stream};
  args.dtype == DType::bf16 ? launch(ssd_plain_kernel<bf16>, shape, args)
                            : launch(ssd_plain_kernel<float>, shape, args);
}

}  // namespace crosscurrent::cuda
