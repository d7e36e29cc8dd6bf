// ssd_step (ssm_step.h). Bound by memory: the state is read once and written once, and stays in registers for
// the replay of accepted nodes and for all new ones.
//
// Eight threads share a row of the state, each with every eighth group of four states: a row's sum has one
// order, whatever the block holds beside it.
#include <algorithm>
#include <type_traits>

#include "launch.cuh"
#include "ptx.cuh"
#include "ssm_math.cuh"
#include "ssm_step.h"
#include "ssm_step_nodes.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kGroups = kStepThreads / kStepLanes;  // rows side by side

// Inputs of some nodes in shared memory.
struct NodeInputs {
  float *b, *c;                // [nodes, states rounded up]
  float* x;                    // [nodes, rows of the block]
  const float *delta, *decay;  // [nodes]
};

// What a thread holds: kRows rows of kVectors groups of four states.
template <int kRows, int kVectors>
struct Rows {
  float4 s[kRows][kVectors];

  // S = decay S + (delta x) bᵀ
  __device__ void apply(const NodeInputs& in, int node, int group, int lane) {
    const float delta = in.delta[node], decay = in.decay[node];
    const float* b_at = in.b + node * kVectors * 32 + 4 * lane;
    const float* x_at = in.x + node * kRows * kGroups + group;
    float4 b[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v) b[v] = load4(b_at + 32 * v);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float dx = __fmul_rn(delta, x_at[r * kGroups]);
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        s[r][v].x = __fmaf_rn(decay, s[r][v].x, __fmul_rn(dx, b[v].x));
        s[r][v].y = __fmaf_rn(decay, s[r][v].y, __fmul_rn(dx, b[v].y));
        s[r][v].z = __fmaf_rn(decay, s[r][v].z, __fmul_rn(dx, b[v].z));
        s[r][v].w = __fmaf_rn(decay, s[r][v].w, __fmul_rn(dx, b[v].w));
      }
    }
  }

  // S c of row `output_row(lane)`, in the first kRows threads of the eight.
  __device__ float output(const NodeInputs& in, int node, int lane) const {
    const float* c_at = in.c + node * kVectors * 32 + 4 * lane;
    float y[kRows] = {};
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const float4 c = load4(c_at + 32 * v);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        y[r] = __fmaf_rn(c.x, s[r][v].x, y[r]);
        y[r] = __fmaf_rn(c.y, s[r][v].y, y[r]);
        y[r] = __fmaf_rn(c.z, s[r][v].z, y[r]);
        y[r] = __fmaf_rn(c.w, s[r][v].w, y[r]);
      }
    }
    // sums of pairs, then of fours, then of eights; while a thread has several rows it gives half of them
    // away
#pragma unroll
    for (int offset = 1, width = kRows; offset < kStepLanes; offset *= 2) {
      if (width == 1) {
        y[0] = __fadd_rn(y[0], __shfl_xor_sync(0xFFFFFFFF, y[0], offset));
        continue;
      }
      width /= 2;
      const bool upper = (lane & offset) != 0;
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) {
        if (i >= width) break;
        const float keep = upper ? y[i + width] : y[i], give = upper ? y[i] : y[i + width];
        y[i] = __fadd_rn(keep, __shfl_xor_sync(0xFFFFFFFF, give, offset));
      }
    }
    return y[0];
  }
  static __device__ int output_row(int lane) { return kRows == 4 ? lane % 2 * 2 + lane / 2 : lane; }
};

template <class T, int kRows, int kVectors>
__global__ void __launch_bounds__(kStepThreads, 4)
    ssd_step_kernel(const __grid_constant__ SsdStepArgs args, uint32_t* arrivals) {
  constexpr int kBlockRows = kRows * kGroups, kWidth = 32 * kVectors;
  extern __shared__ __align__(16) float shared[];
  __shared__ StepParents parents;
  __shared__ float gates[2][2][kMaxNodes];  // delta and decay of new and of accepted nodes
  const int seq = blockIdx.y, row_blocks = static_cast<int>(gridDim.x) / static_cast<int>(args.heads);
  const int head = static_cast<int>(blockIdx.x) / row_blocks;
  const int row0 = static_cast<int>(blockIdx.x) % row_blocks * kBlockRows;
  const int lane = threadIdx.x % kStepLanes, group = threadIdx.x / kStepLanes;
  const int head_dim = static_cast<int>(args.head_dim), states = static_cast<int>(args.states);
  grid_dependency_wait();
  const StepNodes nodes(args.sequences, seq);

  // the state first: it takes longest
  const bool whole = states == kWidth;
  float* const state = args.s + ((nodes.slot * args.heads + head) * head_dim + row0 + group) * states;
  Rows<kRows, kVectors> rows;
  const auto load_state = [&](bool zero) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const bool exists = row0 + group + r * kGroups < head_dim && !zero;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int n = 32 * v + 4 * lane;
        const float* from = state + int64_t{r} * kGroups * states + n;
        rows.s[r][v] = {};
        if (whole) {
          if (exists) rows.s[r][v] = load4(from);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (exists && n + j < states) (&rows.s[r][v].x)[j] = from[j];
        }
      }
    }
  };
  load_state(nodes.is_new);
  launch_dependents();
  // Everything that the nodes bring, as one list: b, c and x of the new ones, b and x of the accepted ones.
  // All loads of a thread are under way before the first is waited for; a loop each would wait as many times.
  const int heads = static_cast<int>(args.heads), groups = static_cast<int>(args.groups);
  const int64_t pending_x = args.heads * args.head_dim, pending_size = pending_x + heads + groups * states;
  float* const pending = args.pending.data + nodes.slot * args.pending.window * pending_size;
  const int64_t x_column = int64_t{head} * head_dim + row0;
  const int b_column = head * groups / heads * states;
  const NodeInputs fresh{shared, shared + nodes.count * kWidth, shared + 2 * nodes.count * kWidth,
                         gates[0][0], gates[0][1]};
  float* const old_b = fresh.x + nodes.count * kBlockRows;
  const NodeInputs old{old_b, nullptr, old_b + nodes.accepted_count * kWidth, gates[1][0], gates[1][1]};
  const auto source = [&](int i, bool& is_float) -> const void* {
    is_float = sizeof(T) == 4;
    if (i < 2 * nodes.count * kWidth) {
      const bool is_c = i >= nodes.count * kWidth;
      const int node = i / kWidth - (is_c ? nodes.count : 0), n = i % kWidth;
      const T* const row = static_cast<const T*>(is_c ? args.c : args.b) +
                           (nodes.first + node) * (is_c ? args.c_stride : args.b_stride);
      return n < states ? row + b_column + n : nullptr;
    }
    i -= 2 * nodes.count * kWidth;
    if (i < nodes.count * kBlockRows) {
      const int node = i / kBlockRows, r = i % kBlockRows;
      const T* const row = static_cast<const T*>(args.x) + (nodes.first + node) * args.x_stride;
      return row0 + r < head_dim ? row + x_column + r : nullptr;
    }
    i -= nodes.count * kBlockRows;
    is_float = true;
    if (i < nodes.accepted_count * kWidth) {
      const int n = i % kWidth;
      const float* const row = pending + nodes.accepted[i / kWidth] * pending_size;
      return n < states ? row + pending_x + heads + b_column + n : nullptr;
    }
    i -= nodes.accepted_count * kWidth;
    const int r = i % kBlockRows;
    const float* const row = pending + nodes.accepted[i / kBlockRows] * pending_size;
    return row0 + r < head_dim ? row + x_column + r : nullptr;
  };
  load_parents(parents, args.sequences, nodes);
  float dt = 0, dt_bias = 0, rate = 0;
  const int gate = threadIdx.x % kMaxNodes;  // of this thread, if any
  const bool is_old = threadIdx.x >= kMaxNodes;
  const bool has_gate = threadIdx.x < 2 * kMaxNodes && gate < (is_old ? nodes.accepted_count : nodes.count);
  if (has_gate) {
    dt = is_old ? pending[nodes.accepted[gate] * pending_size + pending_x + head]
                : to_float(static_cast<const T*>(args.dt)[(nodes.first + gate) * args.dt_stride + head]);
    dt_bias = args.dt_bias[head];
    rate = __fmul_rn(args.a[head], kLog2E);
  }
  const int listed = nodes.count * (2 * kWidth + kBlockRows) + nodes.accepted_count * (kWidth + kBlockRows);
  constexpr int kBatch = 4;
  for (int i0 = threadIdx.x; i0 < listed; i0 += kBatch * kStepThreads) {
    uint32_t raw[kBatch];
    bool is_float[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = i0 + k * kStepThreads;
      const void* const from = i < listed ? source(i, is_float[k]) : nullptr;
      raw[k] = 0;
      if (from != nullptr)
        raw[k] = is_float[k] ? *static_cast<const uint32_t*>(from) : *static_cast<const uint16_t*>(from);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const int i = i0 + k * kStepThreads;
      if (i < listed) shared[i] = __uint_as_float(is_float[k] ? raw[k] : raw[k] << 16);
    }
  }
  if (has_gate) {
    float delta = softplus(__fadd_rn(dt, dt_bias));
    delta = delta < args.dt_min ? args.dt_min : delta > args.dt_max ? args.dt_max : delta;  // a NaN stays
    gates[is_old][0][gate] = delta;
    gates[is_old][1][gate] = exp2_fast(__fmul_rn(delta, rate));
  }
  __syncthreads();

  for (int i = 0; i < nodes.accepted_count; ++i) rows.apply(old, i, group, lane);
  if (nodes.commits()) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row0 + group + r * kGroups >= head_dim) continue;
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int n = 32 * v + 4 * lane;
        float* to = state + int64_t{r} * kGroups * states + n;
        if (whole) {
          store4(to, rows.s[r][v]);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            if (n + j < states) to[j] = (&rows.s[r][v].x)[j];
        }
      }
    }
  }

  const float d = args.d[head];
  walk_nodes(
      nodes, parents, [&] { load_state(false); }, [&](int node) { rows.apply(fresh, node, group, lane); },
      [&](int node) {
        rows.apply(fresh, node, group, lane);
        const float y = rows.output(fresh, node, lane);
        const int row = group + rows.output_row(lane) * kGroups;
        if (lane >= kRows || row0 + row >= head_dim) return;
        const float out = __fmaf_rn(d, fresh.x[node * kBlockRows + row], y);
        static_cast<T*>(args.y)[(nodes.first + node) * args.y_stride + x_column + row] = from_float<T>(out);
      });

  // The new pending rows. b and dt of the old ones were read by other blocks too: the last to get here writes
  // them.
  if (nodes.count == 0) return;
  for (int i = threadIdx.x; i < nodes.count * kBlockRows; i += kStepThreads) {
    const int r = i % kBlockRows;
    if (row0 + r < head_dim) pending[i / kBlockRows * pending_size + x_column + r] = fresh.x[i];
  }
  if (!arrives_last(arrivals + seq, gridDim.x)) return;
  const int width = heads + groups * states;
  for (int i = threadIdx.x; i < nodes.count * width; i += kStepThreads) {
    const int64_t token = nodes.first + i / width;
    const int column = i % width;
    pending[i / width * pending_size + pending_x + column] =
        column < heads ? to_float(static_cast<const T*>(args.dt)[token * args.dt_stride + column])
                       : to_float(static_cast<const T*>(args.b)[token * args.b_stride + column - heads]);
  }
}

void check_args(const SsdStepArgs& args) {
  check(args.dtype == DType::bf16 || args.dtype == DType::f32, "ssd_step: dtype", "bf16 or f32",
        std::string(dtype_info(args.dtype).name));
  check(args.heads >= 1 && args.heads <= 65535, "ssd_step: heads", "1 to 65535", args.heads);
  check(args.head_dim >= 1 && args.head_dim <= 65535, "ssd_step: head_dim", "1 to 65535", args.head_dim);
  check(args.groups >= 1 && args.heads % args.groups == 0, "ssd_step: groups", "a divisor of heads",
        args.groups);
  check(args.states >= 1 && args.states <= kStepMaxStates, "ssd_step: states", "1 to 256", args.states);
  check(args.sequences.seqs >= 0 && args.sequences.seqs <= 65535, "ssd_step: seqs", "0 to 65535",
        args.sequences.seqs);
  check(args.sequences.t >= 0 && args.sequences.t <= int64_t{kMaxNodes} * args.sequences.seqs, "ssd_step: t",
        "at most 16 nodes a sequence", args.sequences.t);
  check(args.pending.window >= 1 && args.pending.window <= kMaxNodes, "ssd_step: window", "1 to 16",
        args.pending.window);
}

void check_pointers(const SsdStepArgs& args) {
  const size_t element = args.dtype == DType::bf16 ? 2 : 4;
  if (args.sequences.t > 0) {
    check_pointer("ssd_step: x", args.x, element);
    check_pointer("ssd_step: dt", args.dt, element);
    check_pointer("ssd_step: b", args.b, element);
    check_pointer("ssd_step: c", args.c, element);
    check_pointer("ssd_step: y", args.y, element);
    check_pointer("ssd_step: parent", args.sequences.parent, 4);
    const auto check_stride = [](const char* operand, int64_t stride, int64_t width) {
      check(stride >= width, operand, "at least " + std::to_string(width), stride);
    };
    check_stride("ssd_step: x_stride", args.x_stride, args.heads * args.head_dim);
    check_stride("ssd_step: dt_stride", args.dt_stride, args.heads);
    check_stride("ssd_step: b_stride", args.b_stride, args.groups * args.states);
    check_stride("ssd_step: c_stride", args.c_stride, args.groups * args.states);
    check_stride("ssd_step: y_stride", args.y_stride, args.heads * args.head_dim);
  }
  check_pointer("ssd_step: dt_bias", args.dt_bias, 4);
  check_pointer("ssd_step: a", args.a, 4);
  check_pointer("ssd_step: d", args.d, 4);
  check_pointer("ssd_step: s", args.s, 16);
  check_pointer("ssd_step: pending", args.pending.data, 4);
  check_pointer("ssd_step: first", args.sequences.first, 4);
  check_pointer("ssd_step: slot", args.sequences.slot, 4);
  check_pointer("ssd_step: length", args.sequences.length, 4);
  check_pointer("ssd_step: accepted_first", args.sequences.accepted_first, 4);
}

template <class T, int kRows, int kVectors>
void run(const SsdStepArgs& args, Workspace workspace, cudaStream_t stream) {
  constexpr int kBlockRows = kRows * kGroups;
  const int accepted = args.pending.window;
  const int nodes = static_cast<int>(std::min<int64_t>(args.sequences.t, kMaxNodes));
  const int floats = nodes * (2 * 32 * kVectors + kBlockRows) + accepted * (32 * kVectors + kBlockRows);
  const auto blocks = static_cast<unsigned>(args.heads * ceil_div<int64_t>(args.head_dim, kBlockRows));
  launch(ssd_step_kernel<T, kRows, kVectors>,
         {.grid = dim3(blocks, static_cast<unsigned>(args.sequences.seqs)),
          .block = dim3(kStepThreads),
          .shared_bytes = sizeof(float) * static_cast<size_t>(floats),
          .stream = stream,
          .dependent = current_arch().has_dependent_launch()},
         args, static_cast<uint32_t*>(workspace.data));
}

template <class T, int kVectors>
void with_rows(const SsdStepArgs& args, Workspace workspace, cudaStream_t stream) {
  constexpr int kMost = step_most_rows(32 * kVectors);
  const SsmStepTile tile =
      ssm_step_tile(current_arch(), args.heads, args.head_dim, args.states, args.sequences.seqs);
  tile.rows == kMost ? run<T, kMost, kVectors>(args, workspace, stream)
                     : run<T, 1, kVectors>(args, workspace, stream);
}

template <class T>
void with_states(const SsdStepArgs& args, Workspace workspace, cudaStream_t stream) {
  if (args.states <= 64) return with_rows<T, 2>(args, workspace, stream);
  if (args.states <= 128) return with_rows<T, 4>(args, workspace, stream);
  with_rows<T, 8>(args, workspace, stream);
}

}  // namespace

size_t ssd_step_workspace(const SsdStepArgs& args) {
  check_args(args);
  return sizeof(uint32_t) * static_cast<size_t>(args.sequences.seqs);
}

void ssd_step(const SsdStepArgs& args, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = ssd_step_workspace(args);
  if (args.sequences.seqs == 0) return;
  check_pointers(args);
  check_workspace("ssd_step: workspace", workspace, bytes);
  args.dtype == DType::bf16 ? with_states<bf16>(args, workspace, stream)
                            : with_states<float>(args, workspace, stream);
}

}  // namespace crosscurrent::cuda
