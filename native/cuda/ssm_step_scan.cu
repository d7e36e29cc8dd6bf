// selective_scan_step (ssm_step.h). A channel is four neighbouring threads of four states each, as in the
// prefill kernel; the state is read once, stays in registers, and is written once.
#include <algorithm>

#include "launch.cuh"
#include "ptx.cuh"
#include "ssm_math.cuh"
#include "ssm_step.h"
#include "ssm_step_nodes.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kChannels = 32;  // of a block
constexpr int kThreads = 4 * kChannels;
constexpr int kMaxStates = 16;

struct Nodes {  // inputs in shared memory
  float b[kMaxNodes][kMaxStates];
  float c[kMaxNodes][kMaxStates];
  float delta[kMaxNodes][kChannels];
  float x[kMaxNodes][kChannels];
};

// h = exp(delta a) h + (delta x) b
__device__ __forceinline__ void apply(float (&h)[4], const float (&a)[4], const Nodes& in, int node,
                                      int column, int quarter) {
  const float delta = in.delta[node][column], dx = __fmul_rn(delta, in.x[node][column]);
  const float4 b = load4(&in.b[node][4 * quarter]);
#pragma unroll
  for (int j = 0; j < 4; ++j)
    h[j] = __fmaf_rn(exp2_fast(__fmul_rn(delta, a[j])), h[j], __fmul_rn(dx, (&b.x)[j]));
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    selective_scan_step_kernel(const __grid_constant__ SelectiveScanStepArgs args, uint32_t* arrivals) {
  __shared__ __align__(16) Nodes old, fresh;
  __shared__ StepParents parents;
  const int seq = blockIdx.y, states = static_cast<int>(args.states);
  const int64_t channel0 = int64_t{blockIdx.x} * kChannels;
  const int column = threadIdx.x / 4, quarter = threadIdx.x % 4;
  const int64_t channel = channel0 + column;
  const bool exists = channel < args.channels;
  const StepNodes nodes(args.sequences, seq);

  float* const state = args.h + (nodes.slot * args.channels + channel) * states + 4 * quarter;
  float a[4], h[4];
  const bool whole = states == kMaxStates;
  const auto load_state = [&](bool zero) {
    float4 v{};
    if (whole) {
      if (exists && !zero) v = load4(state);
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (exists && !zero && 4 * quarter + j < states) (&v.x)[j] = state[j];
    }
    h[0] = v.x, h[1] = v.y, h[2] = v.z, h[3] = v.w;
  };
  load_state(nodes.is_new);
#pragma unroll
  for (int j = 0; j < 4; ++j)
    a[j] = exists && 4 * quarter + j < states ? args.a[channel * states + 4 * quarter + j] * kLog2E : 0.0f;

  const int64_t pending_size = 2 * args.channels + states;
  float* const pending = args.pending.data + nodes.slot * args.pending.window * pending_size;
  load_parents(parents, args.sequences, nodes);
  for (int i = threadIdx.x; i < nodes.accepted_count * kMaxStates; i += kThreads) {
    const int node = i / kMaxStates, n = i % kMaxStates;
    const float* row = pending + nodes.accepted[node] * pending_size;
    old.b[node][n] = n < states ? row[2 * args.channels + n] : 0.0f;
  }
  for (int i = threadIdx.x; i < nodes.count * kMaxStates; i += kThreads) {
    const int node = i / kMaxStates, n = i % kMaxStates;
    const int64_t token = nodes.first + node;
    fresh.b[node][n] = n < states ? to_float(static_cast<const T*>(args.b)[token * args.b_stride + n]) : 0.0f;
    fresh.c[node][n] = n < states ? to_float(static_cast<const T*>(args.c)[token * args.c_stride + n]) : 0.0f;
  }
  const int own = threadIdx.x % kChannels;  // channel of the block in the loops below
  const bool own_exists = channel0 + own < args.channels;
  const float bias = own_exists ? args.dt_bias[channel0 + own] : 0.0f;
  for (int node = threadIdx.x / kChannels; node < nodes.accepted_count; node += kThreads / kChannels) {
    const float* row = pending + nodes.accepted[node] * pending_size + channel0 + own;
    old.x[node][own] = own_exists ? row[0] : 0.0f;
    old.delta[node][own] = own_exists ? softplus(__fadd_rn(row[args.channels], bias)) : 0.0f;
  }
  for (int node = threadIdx.x / kChannels; node < nodes.count; node += kThreads / kChannels) {
    const int64_t token = nodes.first + node, from = channel0 + own;
    fresh.x[node][own] =
        own_exists ? to_float(static_cast<const T*>(args.x)[token * args.x_stride + from]) : 0.0f;
    fresh.delta[node][own] =
        own_exists ? softplus(__fadd_rn(
                         to_float(static_cast<const T*>(args.dt)[token * args.dt_stride + from]), bias))
                   : 0.0f;
  }
  // b of a pending row is read by all blocks: the last to have read writes the new ones.
  if (nodes.count > 0 && arrives_last(arrivals + seq, gridDim.x)) {
    for (int i = threadIdx.x; i < nodes.count * states; i += kThreads)
      pending[i / states * pending_size + 2 * args.channels + i % states] = fresh.b[i / states][i % states];
  }
  __syncthreads();

  for (int i = 0; i < nodes.accepted_count; ++i) apply(h, a, old, i, column, quarter);
  if (nodes.commits()) {
    if (whole) {
      if (exists) store4(state, {h[0], h[1], h[2], h[3]});
    } else {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (exists && 4 * quarter + j < states) state[j] = h[j];
    }
  }

  const float d = exists ? args.d[channel] : 0.0f;
  walk_nodes(
      nodes, parents, [&] { load_state(false); },
      [&](int node) { apply(h, a, fresh, node, column, quarter); },
      [&](int node) {
        apply(h, a, fresh, node, column, quarter);
        const float4 c = load4(&fresh.c[node][4 * quarter]);
        float y = __fmul_rn(c.x, h[0]);
        y = __fmaf_rn(c.y, h[1], y);
        y = __fmaf_rn(c.z, h[2], y);
        y = __fmaf_rn(c.w, h[3], y);
        y = __fadd_rn(y, __shfl_xor_sync(0xFFFFFFFF, y, 1));
        y = __fadd_rn(y, __shfl_xor_sync(0xFFFFFFFF, y, 2));
        if (quarter != 0 || !exists) return;
        const int64_t token = nodes.first + node;
        float out = __fmaf_rn(d, fresh.x[node][column], y);
        if (args.z != nullptr)
          out =
              __fmul_rn(out, silu(to_float(static_cast<const T*>(args.z)[token * args.z_stride + channel])));
        static_cast<T*>(args.y)[token * args.y_stride + channel] = from_float<T>(out);
      });

  for (int node = threadIdx.x / kChannels; node < nodes.count; node += kThreads / kChannels) {
    if (!own_exists) continue;
    float* row = pending + node * pending_size + channel0 + own;
    row[0] = fresh.x[node][own];
    row[args.channels] =
        to_float(static_cast<const T*>(args.dt)[(nodes.first + node) * args.dt_stride + channel0 + own]);
  }
}

void check_args(const SelectiveScanStepArgs& args) {
  check(args.dtype == DType::bf16 || args.dtype == DType::f32, "selective_scan_step: dtype", "bf16 or f32",
        std::string(dtype_info(args.dtype).name));
  check(args.channels >= 1 && args.channels < int64_t{1} << 31, "selective_scan_step: channels",
        "1 to 2^31 - 1", args.channels);
  check(args.states >= 1 && args.states <= kMaxStates, "selective_scan_step: states", "1 to 16", args.states);
  check(args.sequences.seqs >= 0 && args.sequences.seqs <= 65535, "selective_scan_step: seqs", "0 to 65535",
        args.sequences.seqs);
  check(args.sequences.t >= 0 && args.sequences.t <= int64_t{kMaxNodes} * args.sequences.seqs,
        "selective_scan_step: t", "at most 16 nodes a sequence", args.sequences.t);
  check(args.pending.window >= 1 && args.pending.window <= kMaxNodes, "selective_scan_step: window",
        "1 to 16", args.pending.window);
}

void check_pointers(const SelectiveScanStepArgs& args) {
  const size_t element = args.dtype == DType::bf16 ? 2 : 4;
  if (args.sequences.t > 0) {
    check_pointer("selective_scan_step: x", args.x, element);
    check_pointer("selective_scan_step: dt", args.dt, element);
    check_pointer("selective_scan_step: b", args.b, element);
    check_pointer("selective_scan_step: c", args.c, element);
    if (args.z != nullptr) check_pointer("selective_scan_step: z", args.z, element);
    check_pointer("selective_scan_step: y", args.y, element);
    check_pointer("selective_scan_step: parent", args.sequences.parent, 4);
    const auto check_stride = [](const char* operand, int64_t stride, int64_t width) {
      check(stride >= width, operand, "at least " + std::to_string(width), stride);
    };
    check_stride("selective_scan_step: x_stride", args.x_stride, args.channels);
    check_stride("selective_scan_step: dt_stride", args.dt_stride, args.channels);
    check_stride("selective_scan_step: b_stride", args.b_stride, args.states);
    check_stride("selective_scan_step: c_stride", args.c_stride, args.states);
    if (args.z != nullptr) check_stride("selective_scan_step: z_stride", args.z_stride, args.channels);
    check_stride("selective_scan_step: y_stride", args.y_stride, args.channels);
  }
  check_pointer("selective_scan_step: dt_bias", args.dt_bias, 4);
  check_pointer("selective_scan_step: a", args.a, 4);
  check_pointer("selective_scan_step: d", args.d, 4);
  check_pointer("selective_scan_step: h", args.h, args.states == kMaxStates ? 16 : 4);
  check_pointer("selective_scan_step: pending", args.pending.data, 4);
  check_pointer("selective_scan_step: first", args.sequences.first, 4);
  check_pointer("selective_scan_step: slot", args.sequences.slot, 4);
  check_pointer("selective_scan_step: length", args.sequences.length, 4);
  check_pointer("selective_scan_step: accepted_first", args.sequences.accepted_first, 4);
}

}  // namespace

size_t selective_scan_step_workspace(const SelectiveScanStepArgs& args) {
  check_args(args);
  return sizeof(uint32_t) * static_cast<size_t>(args.sequences.seqs);
}

void selective_scan_step(const SelectiveScanStepArgs& args, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = selective_scan_step_workspace(args);
  if (args.sequences.seqs == 0) return;
  check_pointers(args);
  check_workspace("selective_scan_step: workspace", workspace, bytes);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(args.channels, kChannels)),
                                       static_cast<unsigned>(args.sequences.seqs)),
                          .block = dim3(kThreads),
                          .stream = stream};
  auto* arrivals = static_cast<uint32_t*>(workspace.data);
  args.dtype == DType::bf16 ? launch(selective_scan_step_kernel<bf16>, shape, args, arrivals)
                            : launch(selective_scan_step_kernel<float>, shape, args, arrivals);
}

}  // namespace crosscurrent::cuda
