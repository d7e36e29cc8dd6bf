// selective_scan, prefill (selective_scan.h). One launch, no traffic but the operands; bound by the
// special-function unit: 16 exponentials a channel and token and 4 for softplus and silu.
//
// A channel is four neighbouring threads of four states each. Time is parallel inside the block: each split
// takes kScanSteps tokens, computes their decays once, keeps them in registers, runs over them from a zero
// state and leaves (last state, total decay) in shared memory; then each split starts from the true state
// before it and runs over the same registers again, now with outputs. That costs one more fma a token and
// state, and lets a block fill an SM with as few channels as one sequence of one model leaves it.
//
//   tokens of a tile   | split 0 | split 1 | split 2 |      state before the tile -> carry
//   first run            0 -> h0   0 -> h1   0 -> h2
//   barrier, then        carry     P0 carry + h0    P1 (P0 carry + h0) + h1 ...
//   second run           y         y         y
#include <algorithm>

#include "launch.cuh"
#include "ptx.cuh"
#include "selective_scan.h"
#include "ssm_math.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kOwnSteps = kScanSteps / 4;  // of a thread of the four, where work is a token's

struct Layout {  // of shared memory, in bytes
  int bc, bc_raw, gates, parts, carry;
};

template <class T>
struct Block {
  const SelectiveScanArgs& args;
  const SelectiveScanTile tile;
  const bool vectors;
  unsigned char* shared;
  const Layout layout;
  const int steps;  // of a tile
  int64_t first;    // token of the sequence
  int64_t count;    // of its tokens
  int64_t channel;  // first of the block

  __device__ T* raw(int index, int operand) const {
    return reinterpret_cast<T*>(shared) + (index % 3 * 3 + operand) * steps * tile.channels;
  }
  __device__ T* raw_bc(int index) const {
    return reinterpret_cast<T*>(shared + layout.bc_raw) + (index & 1) * 2 * steps * kScanStates;
  }
  __device__ float* bc(int index) const {
    return reinterpret_cast<float*>(shared + layout.bc) + (index & 1) * 2 * steps * kScanStates;
  }

  // Four neighbours, of which `valid` exist; zeros for the rest.
  __device__ void fetch(T* to, const T* from, int valid) const {
    if (vectors) {
      copy_async<4 * sizeof(T)>(to, from, valid == 4 ? 4 * sizeof(T) : 0);
    } else {
      for (int j = 0; j < 4; ++j) to[j] = j < valid ? from[j] : from_float<T>(0.0f);
    }
  }

  // body(row of the tile, channel in it) for this thread's groups of four channels.
  template <class Body>
  __device__ void each_vector(Body body) const {
    const int columns = tile.channels / 4;
    const int rows = static_cast<int>(blockDim.x) / columns;
    const int column = static_cast<int>(threadIdx.x) % columns, row = static_cast<int>(threadIdx.x) / columns;
    if (row >= rows) return;
    for (int i = row; i < steps; i += rows) body(i, 4 * column);
  }
  __device__ int channels_at(int column) const {
    return static_cast<int>(max(int64_t{0}, min(int64_t{4}, args.channels - channel - column)));
  }

  __device__ void fetch_inputs(int index) const {
    each_vector([&](int row, int column) {
      const int64_t step = int64_t{index} * steps + row;
      const int valid = step < count ? channels_at(column) : 0;
      const int64_t token = valid > 0 ? first + step : 0, from = valid > 0 ? channel + column : 0;
      const int to = row * tile.channels + column;
      fetch(raw(index, 0) + to, static_cast<const T*>(args.x) + token * args.x_stride + from, valid);
      fetch(raw(index, 1) + to, static_cast<const T*>(args.dt) + token * args.dt_stride + from, valid);
      if (args.z != nullptr)
        fetch(raw(index, 2) + to, static_cast<const T*>(args.z) + token * args.z_stride + from, valid);
    });
  }

  __device__ void fetch_bc(int index) const {
    const int half = steps * 4;
    for (int i = threadIdx.x; i < 2 * half; i += blockDim.x) {
      const bool is_c = i >= half;
      const int row = (is_c ? i - half : i) / 4, state = i % 4 * 4;
      const int64_t step = int64_t{index} * steps + row;
      const int valid = step < count ? max(0, min(4, static_cast<int>(args.states) - state)) : 0;
      const int64_t offset = valid > 0 ? (first + step) * (is_c ? args.c_stride : args.b_stride) + state : 0;
      fetch(raw_bc(index) + 4 * i, static_cast<const T*>(is_c ? args.c : args.b) + offset, valid);
    }
  }

  __device__ void convert_bc(int index) const {
    for (int i = threadIdx.x; i < 2 * 4 * steps; i += blockDim.x)
      store4(bc(index) + 4 * i, load4(raw_bc(index) + 4 * i));
  }

  // Results lie where x was.
  __device__ void store_outputs(int index) const {
    each_vector([&](int row, int column) {
      const int64_t step = int64_t{index} * steps + row;
      const int valid = step < count ? channels_at(column) : 0;
      if (valid == 0) return;
      const T* from = raw(index, 0) + row * tile.channels + column;
      T* to = static_cast<T*>(args.y) + (first + step) * args.y_stride + channel + column;
      if (vectors) {
        using Four = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
        *reinterpret_cast<Four*>(to) = *reinterpret_cast<const Four*>(from);
      } else {
        for (int j = 0; j < valid; ++j) to[j] = from[j];
      }
    });
  }
};

// v[i] of all four threads of a channel -> this thread's share of the sums: steps kOwnSteps * quarter and on.
__device__ void sum_quarters(float (&v)[kScanSteps], int quarter) {
#pragma unroll
  for (int width = kScanSteps / 2, lane = 2; lane > 0; width /= 2, lane /= 2) {
#pragma unroll
    for (int i = 0; i < width; ++i) {
      const bool upper = (quarter & lane) != 0;
      const float keep = upper ? v[i + width] : v[i], give = upper ? v[i] : v[i + width];
      v[i] = keep + __shfl_xor_sync(0xFFFFFFFF, give, lane);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kScanThreads, 1)
    selective_scan_kernel(const __grid_constant__ SelectiveScanArgs args, const SelectiveScanTile tile,
                          const Layout layout, bool vectors) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int seq = blockIdx.y;
  const int64_t first = args.sequences.first[seq];
  const Block<T> block{args,
                       tile,
                       vectors,
                       shared,
                       layout,
                       tile.splits * kScanSteps,
                       first,
                       args.sequences.first[seq + 1] - first,
                       static_cast<int64_t>(blockIdx.x) * tile.channels};
  const int steps = block.steps;
  const int quarter = threadIdx.x % 4, lane = threadIdx.x / 4;  // lane: of splits * channels
  const int split = lane / tile.channels, column = lane % tile.channels;
  const int64_t channel = block.channel + column;
  const bool exists = channel < args.channels;
  const int states = static_cast<int>(args.states);

  float a[4];
  float4 start{};
  float* const h_at = args.h + (args.sequences.slot[seq] * args.channels + channel) * states + 4 * quarter;
  const bool is_new = args.sequences.length[seq] == 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const bool valid = exists && 4 * quarter + j < states;
    a[j] = valid ? args.a[channel * states + 4 * quarter + j] * kLog2E : 0.0f;
    if (valid && split == 0 && !is_new) (&start.x)[j] = h_at[j];
  }
  const float bias = exists ? args.dt_bias[channel] : 0.0f, d = exists ? args.d[channel] : 0.0f;
  float* const gates = reinterpret_cast<float*>(shared + layout.gates) + lane * 2 * kScanSteps;
  float4* const parts = reinterpret_cast<float4*>(shared + layout.parts) + 4 * column + quarter;
  const int part_stride = 2 * 4 * tile.channels, decay_part = 4 * tile.channels;
  float4* const carry = reinterpret_cast<float4*>(shared + layout.carry) + 4 * column + quarter;
  const int carry_stride = 4 * tile.channels;
  if (split == 0) carry[0] = start;

  const int tiles = static_cast<int>((block.count + steps - 1) / steps);
  block.fetch_bc(0);
  copy_async_commit();
  copy_async_wait<0>();
  __syncthreads();
  block.convert_bc(0);
  block.fetch_inputs(0);
  block.fetch_bc(1);
  copy_async_commit();

  for (int index = 0; index < tiles; ++index) {
    copy_async_wait<0>();
    __syncthreads();
    if (index > 0) block.store_outputs(index - 1);
    block.fetch_inputs(index + 1);
    block.fetch_bc(index + 2);
    copy_async_commit();
    block.convert_bc(index + 1);

    // a token's own work, a quarter of the tokens a thread
    const int own = split * kScanSteps + quarter * kOwnSteps;
    T* const x_at = block.raw(index, 0) + own * tile.channels + column;
    const T* const dt_at = block.raw(index, 1) + own * tile.channels + column;
    float x[kOwnSteps];
#pragma unroll
    for (int i = 0; i < kOwnSteps; ++i) {
      x[i] = to_float(x_at[i * tile.channels]);
      const bool valid = int64_t{index} * steps + own + i < block.count;
      const float delta = valid ? softplus(to_float(dt_at[i * tile.channels]) + bias) : 0.0f;
      gates[quarter * kOwnSteps + i] = delta;
      gates[kScanSteps + quarter * kOwnSteps + i] = delta * x[i];
    }
    __syncwarp();

    // first run, from zero
    const float* const b_at = block.bc(index) + split * kScanSteps * kScanStates + 4 * quarter;
    float decay[kScanSteps][4], input[kScanSteps][4], h[4] = {};
    float total = 0;
#pragma unroll
    for (int k0 = 0; k0 < kScanSteps; k0 += 4) {
      const float4 deltas = load4(gates + k0), dxs = load4(gates + kScanSteps + k0);
#pragma unroll
      for (int k = k0; k < k0 + 4; ++k) {
        const float4 b = load4(b_at + k * kScanStates);
        const float delta = (&deltas.x)[k - k0], dx = (&dxs.x)[k - k0];
        total += delta;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          decay[k][j] = exp2_fast(delta * a[j]);
          input[k][j] = dx * (&b.x)[j];
          h[j] = k == 0 ? input[k][j] : __fmaf_rn(decay[k][j], h[j], input[k][j]);
        }
      }
    }
    float total_decay[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) total_decay[j] = exp2_fast(total * a[j]);
    parts[split * part_stride] = {h[0], h[1], h[2], h[3]};
    parts[split * part_stride + decay_part] = {total_decay[0], total_decay[1], total_decay[2],
                                               total_decay[3]};
    __syncthreads();

    // the true state before this stretch, and after it
    float4 state = carry[(index & 1) * carry_stride];
    for (int before = 0; before < split; ++before) {
      const float4 added = parts[before * part_stride], kept = parts[before * part_stride + decay_part];
#pragma unroll
      for (int j = 0; j < 4; ++j) (&state.x)[j] = __fmaf_rn((&kept.x)[j], (&state.x)[j], (&added.x)[j]);
    }
    if (split == tile.splits - 1) {
      float4 next;
#pragma unroll
      for (int j = 0; j < 4; ++j) (&next.x)[j] = __fmaf_rn(total_decay[j], (&state.x)[j], h[j]);
      carry[(~index & 1) * carry_stride] = next;
    }

    // second run, with outputs
    const float* const c_at = b_at + steps * kScanStates;
    float y[kScanSteps];
#pragma unroll
    for (int k = 0; k < kScanSteps; ++k) {
      const float4 c = load4(c_at + k * kScanStates);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        (&state.x)[j] = __fmaf_rn(decay[k][j], (&state.x)[j], input[k][j]);
        y[k] = j == 0 ? c.x * state.x : __fmaf_rn((&c.x)[j], (&state.x)[j], y[k]);
      }
    }
    sum_quarters(y, quarter);
    const T* const z_at = block.raw(index, 2) + own * tile.channels + column;
#pragma unroll
    for (int i = 0; i < kOwnSteps; ++i) {
      float out = __fmaf_rn(d, x[i], y[i]);
      if (args.z != nullptr) out *= silu(to_float(z_at[i * tile.channels]));
      x_at[i * tile.channels] = from_float<T>(out);
    }
  }

  copy_async_wait<0>();
  __syncthreads();
  if (tiles > 0) block.store_outputs(tiles - 1);
  if (split == 0) {
    const float4 last = carry[(tiles & 1) * carry_stride];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (exists && 4 * quarter + j < states) h_at[j] = (&last.x)[j];
  }
}

void check_args(const SelectiveScanArgs& args) {
  check(args.dtype == DType::bf16 || args.dtype == DType::f32, "selective_scan: dtype", "bf16 or f32",
        std::string(dtype_info(args.dtype).name));
  check(args.channels >= 1 && args.channels < int64_t{1} << 31, "selective_scan: channels", "1 to 2^31 - 1",
        args.channels);
  check(args.states >= 1 && args.states <= kScanStates, "selective_scan: states", "1 to 16", args.states);
  check(args.sequences.seqs >= 0 && args.sequences.seqs < 65536, "selective_scan: seqs", "0 to 65535",
        args.sequences.seqs);
  check(args.sequences.t >= 0 && args.sequences.t < int64_t{1} << 31, "selective_scan: t", "0 to 2^31 - 1",
        args.sequences.t);
}

void check_pointers(const SelectiveScanArgs& args) {
  const size_t element = args.dtype == DType::bf16 ? 2 : 4;
  check_pointer("selective_scan: x", args.x, element);
  check_pointer("selective_scan: dt", args.dt, element);
  check_pointer("selective_scan: dt_bias", args.dt_bias, 4);
  check_pointer("selective_scan: a", args.a, 4);
  check_pointer("selective_scan: b", args.b, element);
  check_pointer("selective_scan: c", args.c, element);
  check_pointer("selective_scan: d", args.d, 4);
  if (args.z != nullptr) check_pointer("selective_scan: z", args.z, element);
  check_pointer("selective_scan: h", args.h, 4);
  check_pointer("selective_scan: y", args.y, element);
  check_pointer("selective_scan: first", args.sequences.first, 4);
  check_pointer("selective_scan: slot", args.sequences.slot, 4);
  check_pointer("selective_scan: length", args.sequences.length, 4);
  const auto check_stride = [](const char* operand, int64_t stride, int64_t width) {
    check(stride >= width, operand, "at least " + std::to_string(width), stride);
  };
  check_stride("selective_scan: x_stride", args.x_stride, args.channels);
  check_stride("selective_scan: dt_stride", args.dt_stride, args.channels);
  check_stride("selective_scan: b_stride", args.b_stride, args.states);
  check_stride("selective_scan: c_stride", args.c_stride, args.states);
  if (args.z != nullptr) check_stride("selective_scan: z_stride", args.z_stride, args.channels);
  check_stride("selective_scan: y_stride", args.y_stride, args.channels);
}

// Whether groups of four neighbours are whole and aligned everywhere.
bool all_vectors(const SelectiveScanArgs& args) {
  const size_t bytes = 4 * (args.dtype == DType::bf16 ? 2 : 4);
  const auto aligned = [&](const void* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % bytes == 0 && stride % 4 == 0;
  };
  return args.channels % 4 == 0 && args.states % 4 == 0 && aligned(args.x, args.x_stride) &&
         aligned(args.dt, args.dt_stride) && aligned(args.b, args.b_stride) &&
         aligned(args.c, args.c_stride) && (args.z == nullptr || aligned(args.z, args.z_stride)) &&
         aligned(args.y, args.y_stride);
}

template <class T>
void run(const SelectiveScanArgs& args, const SelectiveScanTile& tile, cudaStream_t stream) {
  const int steps = tile.steps(), bytes = static_cast<int>(sizeof(T));
  Layout layout{};
  layout.bc = 9 * steps * tile.channels * bytes;
  layout.bc_raw = layout.bc + 4 * steps * kScanStates * 4;
  layout.gates = layout.bc_raw + 4 * steps * kScanStates * bytes;
  layout.parts = layout.gates + tile.channels * tile.splits * 2 * kScanSteps * 4;
  layout.carry = layout.parts + tile.channels * tile.splits * 2 * kScanStates * 4;
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(args.channels, tile.channels));
  launch(selective_scan_kernel<T>,
         {.grid = dim3(blocks, static_cast<unsigned>(args.sequences.seqs)),
          .block = dim3(static_cast<unsigned>(tile.threads())),
          .shared_bytes = selective_scan_shared_bytes(tile, sizeof(T)),
          .stream = stream},
         args, tile, layout, all_vectors(args));
}

}  // namespace

void selective_scan(const SelectiveScanArgs& args, const SelectiveScanTile& tile, cudaStream_t stream) {
  check_args(args);
  if (args.sequences.seqs == 0 || args.sequences.t == 0) return;
  check_pointers(args);
  check(tile.channels >= 4 && tile.channels % 4 == 0 && tile.splits >= 1 &&
            tile.channels * tile.splits % 8 == 0 && tile.threads() <= kScanThreads,
        "selective_scan: tile", "whole warps, at most 512 threads", tile.threads());
  args.dtype == DType::bf16 ? run<bf16>(args, tile, stream) : run<float>(args, tile, stream);
}

void selective_scan(const SelectiveScanArgs& args, cudaStream_t stream) {
  check_args(args);
  if (args.sequences.seqs == 0 || args.sequences.t == 0) return;
  selective_scan(args,
                 selective_scan_tile(current_arch(), args.channels, args.sequences.seqs, args.sequences.t),
                 stream);
}

}  // namespace crosscurrent::cuda
