// causal_conv1d (causal_conv1d.h). Bound by memory.
//
// Prefill: a thread takes 16 bytes of channels through a run of tokens with the last inputs in registers, so
// that each input is read once and kernel - 1 of a run twice. The windows move on in a launch of their own:
// other blocks still read the old ones. Decode: a thread a channel does all of that in one.
#include <type_traits>

#include "causal_conv1d.h"
#include "launch.cuh"
#include "ssm_math.cuh"
#include "ssm_step_nodes.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kRun = 16;   // tokens of a block
constexpr int kBatch = 4;  // of them loaded at once

__device__ __forceinline__ float activate(float x, ConvActivation activation) {
  switch (activation) {
    case ConvActivation::silu: return silu(x);
    case ConvActivation::gelu: {  // x (1 + tanh(u)) / 2 = x / (1 + e^-2u)
      const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
      return x * reciprocal_fast(1.0f + exp2_fast(-2.0f * kLog2E * u));
    }
    case ConvActivation::relu2: {
      const float positive = x < 0.0f ? 0.0f : x;  // NaN stays NaN
      return positive * positive;
    }
    default: return x;
  }
}

// kWidth channels side by side: 16 bytes, or one.
template <int kWidth>
__device__ __forceinline__ void load_row(float (&to)[kWidth], const float* from) {
  if constexpr (kWidth == 1) {
    to[0] = *from;
  } else {
#pragma unroll
    for (int i = 0; i < kWidth; i += 4) {
      const float4 v = load4(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  }
}

// As loaded: what waits in registers for its turn should be small.
template <class T, int kWidth>
using Raw = std::conditional_t<kWidth == 1, T, uint4>;

template <int kWidth>
__device__ __forceinline__ void unpack(float (&to)[kWidth], const uint4& raw) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (kWidth == 4) {
      to[i] = __uint_as_float(words[i]);
    } else {
      to[2 * i] = __uint_as_float(words[i] << 16);
      to[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
    }
  }
}
template <int kWidth, class T>
__device__ __forceinline__ void unpack(float (&to)[kWidth], const T& raw) {
  to[0] = to_float(raw);
}

template <int kWidth>
__device__ __forceinline__ void load_row(float (&to)[kWidth], const bf16* from) {
  unpack(to, *reinterpret_cast<const Raw<bf16, kWidth>*>(from));
}

template <int kWidth, class T>
__device__ __forceinline__ void store_row(T* to, const float (&from)[kWidth]) {
  if constexpr (kWidth == 1) {
    *to = from_float<T>(from[0]);
  } else if constexpr (sizeof(T) == 4) {
    store4(to, {from[0], from[1], from[2], from[3]});
  } else {
    *reinterpret_cast<uint4*>(to) = {pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]),
                                     pack_bf16(from[4], from[5]), pack_bf16(from[6], from[7])};
  }
}

// Where the rows before a token are: `before` = 1 is the one just before it.
template <class T>
struct History {
  const CausalConv1dArgs& args;
  const PrefillSequences& sequences;
  int64_t channel;

  template <int kWidth>
  __device__ void load(float (&to)[kWidth], int seq, int64_t token, int before) const {
    const int64_t offset = token - before - sequences.first[seq];
    if (offset >= 0)
      return load_row(to, static_cast<const T*>(args.x) + (token - before) * args.x_stride + channel);
    const int64_t kept = args.kernel - 1;
    if (sequences.length[seq] == 0 || kept + offset < 0) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) to[i] = 0.0f;
      return;
    }
    load_row(to, args.window + (sequences.slot[seq] * kept + kept + offset) * args.channels + channel);
  }
};

// The sequence of a token that exists.
__device__ __forceinline__ int sequence_of(const PrefillSequences& sequences, int64_t token) {
  int low = 0, high = sequences.seqs;  // first[low] <= token < first[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (sequences.first[middle] <= token ? low : high) = middle;
  }
  return low;
}

template <class T, int kTaps, int kWidth>
__global__ void __launch_bounds__(kThreads, kTaps == 4 ? 4 : 2)
    causal_conv1d_kernel(const __grid_constant__ CausalConv1dArgs args,
                         const __grid_constant__ PrefillSequences sequences) {
  const int64_t channel = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kWidth;
  if (channel >= args.channels) return;
  const int64_t begin = int64_t{blockIdx.x} * kRun, end = min(begin + kRun, sequences.t);
  const T* const x = static_cast<const T*>(args.x) + channel;
  T* const y = static_cast<T*>(args.y) + channel;
  // a batch ahead, the first before all else
  Raw<T, kWidth> raw[kBatch], ahead[kBatch];
  const auto load_batch = [&](Raw<T, kWidth>(&to)[kBatch], int64_t from) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k)
      if (from + k < end) to[k] = *reinterpret_cast<const Raw<T, kWidth>*>(x + (from + k) * args.x_stride);
  };
  load_batch(ahead, begin);

  const int missing = kTaps - args.kernel;  // taps that do not exist, the oldest ones
  float weight[kTaps][kWidth], bias[kWidth] = {};
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const float* const from = args.weight + (channel + i) * args.kernel;
    if (kTaps == 4 && kWidth > 1 && missing == 0) {
      const float4 v = load4(from);
      weight[0][i] = v.x, weight[1][i] = v.y, weight[2][i] = v.z, weight[3][i] = v.w;
    } else {
#pragma unroll
      for (int j = 0; j < kTaps; ++j) weight[j][i] = j >= missing ? from[j - missing] : 0.0f;
    }
  }
  if (args.bias != nullptr) load_row(bias, args.bias + channel);

  const History<T> history{args, sequences, channel};
  int seq = sequence_of(sequences, begin);
  int64_t next = sequences.first[seq + 1];
  float taps[kTaps][kWidth];  // the token's own input last
#pragma unroll
  for (int j = 0; j < kTaps - 1; ++j) history.load(taps[j + 1], seq, begin, kTaps - 1 - j);

  for (int64_t token = begin; token < end; token += kBatch) {
#pragma unroll
    for (int k = 0; k < kBatch; ++k) raw[k] = ahead[k];
    load_batch(ahead, token + kBatch);
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (token + k >= end) break;
      if (token + k == next) {
        while (sequences.first[seq + 1] <= token + k) ++seq;
        next = sequences.first[seq + 1];
#pragma unroll
        for (int j = 0; j < kTaps - 1; ++j) history.load(taps[j + 1], seq, token + k, kTaps - 1 - j);
      }
      float row[kWidth], out[kWidth];
      unpack(row, raw[k]);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
#pragma unroll
        for (int j = 0; j < kTaps - 1; ++j) taps[j][i] = taps[j + 1][i];
        taps[kTaps - 1][i] = row[i];
        float sum = bias[i];
#pragma unroll
        for (int j = 0; j < kTaps; ++j)
          if (j >= missing) sum = __fmaf_rn(weight[j][i], taps[j][i], sum);
        out[i] = activate(sum, args.activation);
      }
      store_row(y + (token + k) * args.y_stride, out);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    move_windows_kernel(const __grid_constant__ CausalConv1dArgs args,
                        const __grid_constant__ PrefillSequences sequences) {
  const int64_t channel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int seq = blockIdx.y;
  if (channel >= args.channels || sequences.first[seq] == sequences.first[seq + 1]) return;
  const History<T> history{args, sequences, channel};
  const int kept = args.kernel - 1;
  float* const window = args.window + int64_t{sequences.slot[seq]} * kept * args.channels + channel;
  // oldest first: a row moves to a place whose old content is no longer wanted
  for (int i = 0; i < kept; ++i) {
    float row[1];
    history.load(row, seq, sequences.first[seq + 1], kept - i);
    window[i * args.channels] = row[0];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    causal_conv1d_step_kernel(const __grid_constant__ CausalConv1dArgs args, const PendingRows pending,
                              const __grid_constant__ DecodeSequences sequences) {
  __shared__ StepParents parents;
  __shared__ float history[kMaxConvKernel - 1][kThreads];  // a thread's own column: the committed inputs
  const int seq = blockIdx.y, kept = args.kernel - 1, own = threadIdx.x;
  const StepNodes nodes(sequences, seq);
  load_parents(parents, sequences, nodes);
  __syncthreads();
  const int64_t channel = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (channel >= args.channels) return;

  float* const window = args.window + nodes.slot * kept * args.channels + channel;
  float* const rows = pending.data + nodes.slot * pending.window * args.channels + channel;
  for (int i = 0; i < kept; ++i) {
    const int from = i + nodes.accepted_count;  // in the list of window and accepted nodes
    if (from >= kept)
      history[i][own] = rows[nodes.accepted[from - kept] * args.channels];
    else
      history[i][own] = nodes.is_new ? 0.0f : window[from * args.channels];
  }
  if (nodes.commits())
    for (int i = 0; i < kept; ++i) window[i * args.channels] = history[i][own];

  const T* const x = static_cast<const T*>(args.x) + channel;
  for (int node = 0; node < nodes.count; ++node) {
    float taps[kMaxConvKernel];
    int up = node, back = kept;
#pragma unroll
    for (int j = kMaxConvKernel - 1; j >= 0; --j) {
      if (kMaxConvKernel - 1 - j >= args.kernel) break;
      if (up >= 0) {
        taps[j] = to_float(x[(nodes.first + up) * args.x_stride]);
        up = parents[up];
      } else {
        taps[j] = history[--back][own];
      }
    }
    float sum = args.bias != nullptr ? args.bias[channel] : 0.0f;
    const int missing = kMaxConvKernel - args.kernel;
#pragma unroll
    for (int j = 0; j < kMaxConvKernel; ++j)
      if (j >= missing) sum = __fmaf_rn(args.weight[channel * args.kernel + j - missing], taps[j], sum);
    static_cast<T*>(args.y)[(nodes.first + node) * args.y_stride + channel] =
        from_float<T>(activate(sum, args.activation));
  }
  for (int node = 0; node < nodes.count; ++node)
    rows[node * args.channels] = to_float(x[(nodes.first + node) * args.x_stride]);
}

void check_args(const CausalConv1dArgs& args, int64_t t, int32_t seqs) {
  check(args.dtype == DType::bf16 || args.dtype == DType::f32, "causal_conv1d: dtype", "bf16 or f32",
        std::string(dtype_info(args.dtype).name));
  check(args.kernel >= 2 && args.kernel <= kMaxConvKernel, "causal_conv1d: kernel", "2 to 8", args.kernel);
  check(args.channels >= 1 && args.channels < int64_t{1} << 22, "causal_conv1d: channels", "1 to 2^22 - 1",
        args.channels);
  check(args.activation >= ConvActivation::none && args.activation <= ConvActivation::relu2,
        "causal_conv1d: activation", "0 to 3", static_cast<int>(args.activation));
  check(seqs >= 0 && seqs <= 65535, "causal_conv1d: seqs", "0 to 65535", seqs);
  check(t >= 0 && t < int64_t{1} << 31, "causal_conv1d: t", "0 to 2^31 - 1", t);
}

void check_pointers(const CausalConv1dArgs& args, int64_t t) {
  const size_t element = args.dtype == DType::bf16 ? 2 : 4;
  if (t > 0) {
    check_pointer("causal_conv1d: x", args.x, element);
    check_pointer("causal_conv1d: y", args.y, element);
    check(args.x != args.y, "causal_conv1d: y", "memory of its own", "x");
    check(args.x_stride >= args.channels, "causal_conv1d: x_stride", "at least channels", args.x_stride);
    check(args.y_stride >= args.channels, "causal_conv1d: y_stride", "at least channels", args.y_stride);
  }
  check_pointer("causal_conv1d: weight", args.weight, 4);
  if (args.bias != nullptr) check_pointer("causal_conv1d: bias", args.bias, 4);
  check_pointer("causal_conv1d: window", args.window, 4);
}

// Whether every row can be taken 16 bytes at a time, those of the f32 window and bias too.
bool all_vectors(const CausalConv1dArgs& args) {
  const int width = args.dtype == DType::bf16 ? 8 : 4;
  const auto aligned = [](const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; };
  return args.channels % width == 0 && args.x_stride % width == 0 && args.y_stride % width == 0 &&
         aligned(args.x) && aligned(args.y) && aligned(args.window) && aligned(args.bias) &&
         aligned(args.weight);
}

template <class T, int kTaps, int kWidth>
void run(const CausalConv1dArgs& args, const PrefillSequences& sequences, cudaStream_t stream) {
  const auto columns = static_cast<unsigned>(ceil_div<int64_t>(args.channels, kThreads * kWidth));
  const auto runs = static_cast<unsigned>(ceil_div<int64_t>(sequences.t, kRun));
  launch(causal_conv1d_kernel<T, kTaps, kWidth>,
         {.grid = dim3(runs, columns), .block = dim3(kThreads), .stream = stream}, args, sequences);
  launch(move_windows_kernel<T>,
         {.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(args.channels, kThreads)),
                       static_cast<unsigned>(sequences.seqs)),
          .block = dim3(kThreads),
          .stream = stream},
         args, sequences);
}

template <class T>
void with_taps(const CausalConv1dArgs& args, const PrefillSequences& sequences, cudaStream_t stream) {
  constexpr int kWidth = 16 / sizeof(T);
  if (!all_vectors(args)) return run<T, kMaxConvKernel, 1>(args, sequences, stream);
  args.kernel <= 4 ? run<T, 4, kWidth>(args, sequences, stream)
                   : run<T, kMaxConvKernel, kWidth>(args, sequences, stream);
}

}  // namespace

void causal_conv1d(const CausalConv1dArgs& args, const PrefillSequences& sequences, cudaStream_t stream) {
  check_args(args, sequences.t, sequences.seqs);
  if (sequences.seqs == 0 || sequences.t == 0) return;
  check_pointers(args, sequences.t);
  check_pointer("causal_conv1d: first", sequences.first, 4);
  check_pointer("causal_conv1d: slot", sequences.slot, 4);
  check_pointer("causal_conv1d: length", sequences.length, 4);
  args.dtype == DType::bf16 ? with_taps<bf16>(args, sequences, stream)
                            : with_taps<float>(args, sequences, stream);
}

void causal_conv1d_step(const CausalConv1dArgs& args, const PendingRows& pending,
                        const DecodeSequences& sequences, cudaStream_t stream) {
  check_args(args, sequences.t, sequences.seqs);
  check(sequences.t <= int64_t{kMaxNodes} * sequences.seqs, "causal_conv1d: t", "at most 16 nodes a sequence",
        sequences.t);
  check(pending.window >= 1 && pending.window <= kMaxNodes, "causal_conv1d: pending window", "1 to 16",
        pending.window);
  if (sequences.seqs == 0) return;
  check_pointers(args, sequences.t);
  check_pointer("causal_conv1d: pending", pending.data, 4);
  check_pointer("causal_conv1d: first", sequences.first, 4);
  check_pointer("causal_conv1d: slot", sequences.slot, 4);
  check_pointer("causal_conv1d: length", sequences.length, 4);
  check_pointer("causal_conv1d: accepted_first", sequences.accepted_first, 4);
  if (sequences.t > 0) check_pointer("causal_conv1d: parent", sequences.parent, 4);
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(ceil_div<int64_t>(args.channels, kThreads)),
                                       static_cast<unsigned>(sequences.seqs)),
                          .block = dim3(kThreads),
                          .stream = stream};
  args.dtype == DType::bf16 ? launch(causal_conv1d_step_kernel<bf16>, shape, args, pending, sequences)
                            : launch(causal_conv1d_step_kernel<float>, shape, args, pending, sequences);
}

}  // namespace crosscurrent::cuda
