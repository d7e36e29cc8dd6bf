// selective_scan, prefill (selective_scan.h). One launch, no traffic but the operands; bound by the
// special-function unit (16 exponentials a channel and token and 4 for softplus and silu) and by issue slots,
// in equal parts.
//
// A channel is four neighbouring threads of four states each. Time is parallel inside the block: each split
// takes kScanSteps tokens, computes their decays once, keeps them in registers, runs over them from a zero
// state and leaves (last state, total decay) in shared memory; then each split starts from the true state
// before it and runs over the same registers again, now with outputs. That costs one more fma a token and
// state, and lets a block fill an SM with as few channels as one sequence of one model leaves it.
//
//   tokens of a round  | split 0 | split 1 | split 2 |      state before the round: carry
//   first run            0 -> h0   0 -> h1   0 -> h2
//   barrier, then        carry     P0 carry + h0    P1 (P0 carry + h0) + h1 ...
//   second run           y         y         y
#include <algorithm>
#include <type_traits>

#include "launch.cuh"
#include "ptx.cuh"
#include "selective_scan.h"
#include "ssm_math.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kOwnSteps = kScanSteps / 4;  // of a thread of the four, where work is a token's

template <class T, int kChannels, int kSplits>
struct Tile {
  static constexpr int kThreads = 4 * kChannels * kSplits;
  static constexpr int kRoundTokens = kSplits * kScanSteps;
  static constexpr int kTokens = kScanRounds * kRoundTokens;
  static constexpr int kElements = kTokens * kChannels;
  static constexpr int kVector = 16 / sizeof(T);             // of b and c, elements
  static constexpr int kRowVectors = kScanStates / kVector;  // of b; of c as many
  static constexpr int kVectors = kRowVectors * kTokens;     // of a tile
  static_assert(kElements / 4 == kThreads, "each thread copies four channels of one token of each operand");

  T raw[4][3][kTokens][kChannels];   // x, dt and z of four tiles; y takes the place of x
  T bc[2][kTokens][2][kScanStates];  // b and c as they come: as f32 they would cost twice the reads
  float4 gates[kThreads / 4][4];     // a thread of four's own: softplus(dt) and that times x of two tokens
  float4 parts[2][kSplits][2][kChannels][4];  // last state and total decay of each stretch, of two rounds
  float4 carry[2][kChannels][4];              // state before the round
};

// What a block is at work on; the same for all its threads.
struct Work {
  const SelectiveScanArgs& args;
  int first;     // token of the sequence
  int count;     // of its tokens
  int channel;   // first of the block
  int channels;  // of all blocks
};

// Tokens and strides in bytes fit 32 bits, their product does not.
template <class T>
__device__ __forceinline__ const T* row(const void* data, int token, int64_t stride) {
  const auto bytes = static_cast<uint32_t>(stride) * static_cast<uint32_t>(sizeof(T));
  return reinterpret_cast<const T*>(static_cast<const char*>(data) +
                                    static_cast<uint64_t>(static_cast<uint32_t>(token)) * bytes);
}

// This thread's four channels of tile `index`: of x, dt and z in, and y out. With kVectors groups of four
// channels and of 16 bytes of states are whole and aligned everywhere.
template <bool kVectors, class T, class Tile>
__device__ __forceinline__ void fetch_inputs(Tile& tile, const Work& work, int index) {
  constexpr int kColumns = sizeof(tile.raw[0][0][0]) / sizeof(T) / 4;
  const int token = threadIdx.x / kColumns, column = 4 * (threadIdx.x % kColumns);
  const int left = index * Tile::kTokens + token < work.count ? work.channels - work.channel - column : 0;
  const auto load = [&](int operand, const void* data, int64_t stride) {
    T* const to = &tile.raw[index & 3][operand][token][column];
    const T* const from =
        row<T>(data, work.first + index * Tile::kTokens + token, stride) + (work.channel + column);
    if constexpr (kVectors) {
      copy_async<4 * sizeof(T)>(to, from, left > 0 ? 4 * sizeof(T) : 0);
    } else {
      for (int j = 0; j < 4; ++j) to[j] = j < left ? from[j] : from_float<T>(0.0f);
    }
  };
  load(0, work.args.x, work.args.x_stride);
  load(1, work.args.dt, work.args.dt_stride);
  if (work.args.z != nullptr) load(2, work.args.z, work.args.z_stride);
}

template <bool kVectors, class T, class Tile>
__device__ __forceinline__ void store_outputs(Tile& tile, const Work& work, int index) {
  constexpr int kColumns = sizeof(tile.raw[0][0][0]) / sizeof(T) / 4;
  const int token = threadIdx.x / kColumns, column = 4 * (threadIdx.x % kColumns);
  const int left = work.channels - work.channel - column;
  if (index * Tile::kTokens + token >= work.count || left <= 0) return;
  const T* const from = &tile.raw[index & 3][0][token][column];
  T* const to =
      const_cast<T*>(row<T>(work.args.y, work.first + index * Tile::kTokens + token, work.args.y_stride)) +
      (work.channel + column);
  if constexpr (kVectors) {
    using Four = std::conditional_t<sizeof(T) == 2, uint2, uint4>;
    *reinterpret_cast<Four*>(to) = *reinterpret_cast<const Four*>(from);
  } else {
    for (int j = 0; j < 4; ++j)
      if (j < left) to[j] = from[j];
  }
}

template <bool kVectors, class T, class Tile>
__device__ __forceinline__ void fetch_bc(Tile& tile, const Work& work, int index) {
#pragma unroll
  for (int i0 = 0; i0 < Tile::kVectors; i0 += Tile::kThreads) {
    const int i = i0 + threadIdx.x;
    if (i >= Tile::kVectors) break;
    const int token = i / Tile::kRowVectors, state = i % Tile::kRowVectors * Tile::kVector;
    const int left =
        index * Tile::kTokens + token < work.count ? static_cast<int>(work.args.states) - state : 0;
    const auto load = [&](int is_c, const void* data, int64_t stride) {
      T* const to = &tile.bc[index & 1][token][is_c][state];
      const T* const from = row<T>(data, work.first + index * Tile::kTokens + token, stride) + state;
      if constexpr (kVectors) {
        copy_async_16(to, from, left >= Tile::kVector ? 16 : 0);
      } else {
        for (int j = 0; j < Tile::kVector; ++j) to[j] = j < left ? from[j] : from_float<T>(0.0f);
      }
    };
    load(0, work.args.b, work.args.b_stride);
    load(1, work.args.c, work.args.c_stride);
  }
}

// v[i] of all four threads of a channel -> this thread's share of the sums: steps kOwnSteps * quarter and on.
__device__ __forceinline__ void sum_quarters(float (&v)[kScanSteps], int quarter) {
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

template <class T, int kChannels, int kSplits, bool kVectors>
__global__ void __launch_bounds__(4 * kChannels * kSplits, 1)
    selective_scan_kernel(const __grid_constant__ SelectiveScanArgs args) {
  using Tile = Tile<T, kChannels, kSplits>;
  extern __shared__ __align__(16) unsigned char shared[];
  Tile& tile = *reinterpret_cast<Tile*>(shared);
  const int seq = blockIdx.y;
  const int first = args.sequences.first[seq];
  const Work work{args, first, args.sequences.first[seq + 1] - first,
                  static_cast<int>(blockIdx.x) * kChannels, static_cast<int>(args.channels)};

  // a warp is 8 channels, or 4 channels in two splits; warps of the same channels meet at a barrier of their
  // own
  constexpr int kWidth = kChannels % 8 == 0 ? 8 : 4, kSets = kChannels / kWidth;
  const int quarter = threadIdx.x % 4, warp = threadIdx.x / 32, eighth = threadIdx.x % 32 / 4;
  const int set = warp % kSets;
  const int split = warp / kSets * (8 / kWidth) + eighth / kWidth, column = set * kWidth + eighth % kWidth;
  const int channel = work.channel + column;
  const bool exists = channel < work.channels;
  const int states = static_cast<int>(args.states);
  // computed twice: not worth registers in between
  const auto state_at = [&] {
    return args.h + (int64_t{args.sequences.slot[seq]} * work.channels + channel) * states + 4 * quarter;
  };
  const bool is_new = args.sequences.length[seq] == 0;
  float a[4];
  float4 start{};
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const bool valid = exists && 4 * quarter + j < states;
    a[j] = valid ? args.a[int64_t{channel} * states + 4 * quarter + j] * kLog2E : 0.0f;
    if (valid && split == 0 && !is_new) (&start.x)[j] = state_at()[j];
  }
  if (split == 0) tile.carry[0][column][quarter] = start;
  const float bias = exists ? args.dt_bias[channel] : 0.0f, d = exists ? args.d[channel] : 0.0f;
  float4(&gates)[4] = tile.gates[threadIdx.x / 4];

  const int tiles = (work.count + Tile::kTokens - 1) / Tile::kTokens;
  fetch_inputs<kVectors, T>(tile, work, 0);
  fetch_bc<kVectors, T>(tile, work, 0);
  copy_async_commit();
  for (int index = 0; index < tiles; ++index) {
    copy_async_wait<0>();
    __syncthreads();
    if (index > 0) store_outputs<kVectors, T>(tile, work, index - 1);
    fetch_inputs<kVectors, T>(tile, work, index + 1);
    fetch_bc<kVectors, T>(tile, work, index + 1);
    copy_async_commit();

#pragma unroll
    for (int round = 0; round < kScanRounds; ++round) {
      // a token's own work, a quarter of the tokens a thread
      const int begin = round * Tile::kRoundTokens + split * kScanSteps, own = begin + quarter * kOwnSteps;
      float x[kOwnSteps], delta[kOwnSteps];
#pragma unroll
      for (int i = 0; i < kOwnSteps; ++i) {
        x[i] = to_float(tile.raw[index & 3][0][own + i][column]);
        delta[i] = softplus(to_float(tile.raw[index & 3][1][own + i][column]) + bias);
        // a token that does not exist leaves the state alone
        if (index * Tile::kTokens + own + i >= work.count) delta[i] = x[i] = 0;
      }
      static_assert(kOwnSteps == 2);
      gates[quarter] = {delta[0], delta[0] * x[0], delta[1], delta[1] * x[1]};
      __syncwarp();

      // first run, from zero
      const auto& bc = tile.bc[index & 1];
      float decay[kScanSteps][4], input[kScanSteps][4], h[4] = {};
      float total = 0;
#pragma unroll
      for (int k = 0; k < kScanSteps; ++k) {
        const float4 pair = gates[k / 2];
        const float delta_k = k % 2 == 0 ? pair.x : pair.z, dx = k % 2 == 0 ? pair.y : pair.w;
        const float4 b = load4(&bc[begin + k][0][4 * quarter]);
        total += delta_k;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          decay[k][j] = exp2_fast(delta_k * a[j]);
          input[k][j] = dx * (&b.x)[j];
          h[j] = k == 0 ? input[k][j] : __fmaf_rn(decay[k][j], h[j], input[k][j]);
        }
      }
      float total_decay[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) total_decay[j] = exp2_fast(total * a[j]);
      tile.parts[round][split][0][column][quarter] = {h[0], h[1], h[2], h[3]};
      tile.parts[round][split][1][column][quarter] = {total_decay[0], total_decay[1], total_decay[2],
                                                      total_decay[3]};
      barrier_sync(1 + set, Tile::kThreads / kSets);

      // the true state before this stretch, and after it
      static_assert(kScanRounds == 2, "the carry of round r is carry[r]");
      float4 state = tile.carry[round][column][quarter];
      constexpr int kBatch = 2;  // loads in flight
#pragma unroll
      for (int before = 0; before < kSplits - 1; before += kBatch) {
        if (before >= split) break;
        float4 added[kBatch], kept[kBatch];
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          if (before + i >= split) continue;
          added[i] = tile.parts[round][before + i][0][column][quarter];
          kept[i] = tile.parts[round][before + i][1][column][quarter];
        }
#pragma unroll
        for (int i = 0; i < kBatch; ++i) {
          if (before + i >= split) continue;
#pragma unroll
          for (int j = 0; j < 4; ++j)
            (&state.x)[j] = __fmaf_rn((&kept[i].x)[j], (&state.x)[j], (&added[i].x)[j]);
        }
      }
      if (split == kSplits - 1) {
        float4 next;
#pragma unroll
        for (int j = 0; j < 4; ++j) (&next.x)[j] = __fmaf_rn(total_decay[j], (&state.x)[j], h[j]);
        tile.carry[1 - round][column][quarter] = next;
      }

      // second run, with outputs
      float y[kScanSteps];
#pragma unroll
      for (int k = 0; k < kScanSteps; ++k) {
        const float4 c = load4(&bc[begin + k][1][4 * quarter]);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          (&state.x)[j] = __fmaf_rn(decay[k][j], (&state.x)[j], input[k][j]);
          y[k] = j == 0 ? c.x * state.x : __fmaf_rn((&c.x)[j], (&state.x)[j], y[k]);
        }
      }
      sum_quarters(y, quarter);
#pragma unroll
      for (int i = 0; i < kOwnSteps; ++i) {
        float out = __fmaf_rn(d, x[i], y[i]);
        if (args.z != nullptr) out *= silu(to_float(tile.raw[index & 3][2][own + i][column]));
        tile.raw[index & 3][0][own + i][column] = from_float<T>(out);
      }
    }
  }

  copy_async_wait<0>();
  __syncthreads();
  if (tiles > 0) store_outputs<kVectors, T>(tile, work, tiles - 1);
  if (split == 0) {
    const float4 last = tile.carry[0][column][quarter];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (exists && 4 * quarter + j < states) state_at()[j] = (&last.x)[j];
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
  check(args.sequences.t >= 0 && args.sequences.t < int64_t{1} << 30, "selective_scan: t", "0 to 2^30 - 1",
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
    check(stride >= width && stride < int64_t{1} << 29, operand, std::to_string(width) + " to 2^29 - 1",
          stride);
  };
  check_stride("selective_scan: x_stride", args.x_stride, args.channels);
  check_stride("selective_scan: dt_stride", args.dt_stride, args.channels);
  check_stride("selective_scan: b_stride", args.b_stride, args.states);
  check_stride("selective_scan: c_stride", args.c_stride, args.states);
  if (args.z != nullptr) check_stride("selective_scan: z_stride", args.z_stride, args.channels);
  check_stride("selective_scan: y_stride", args.y_stride, args.channels);
}

// Whether groups of four channels, and rows of b and c, are whole and aligned everywhere.
bool all_vectors(const SelectiveScanArgs& args) {
  const int element = args.dtype == DType::bf16 ? 2 : 4;
  const auto aligned = [&](const void* data, int64_t stride, int bytes) {
    return reinterpret_cast<uintptr_t>(data) % static_cast<size_t>(bytes) == 0 &&
           stride * element % bytes == 0;
  };
  const int four = 4 * element;
  return args.channels % 4 == 0 && args.states * element % 16 == 0 && aligned(args.x, args.x_stride, four) &&
         aligned(args.dt, args.dt_stride, four) && aligned(args.b, args.b_stride, 16) &&
         aligned(args.c, args.c_stride, 16) && (args.z == nullptr || aligned(args.z, args.z_stride, four)) &&
         aligned(args.y, args.y_stride, four);
}

template <class T, int kChannels, int kSplits, bool kVectors>
void run(const SelectiveScanArgs& args, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(args.channels, kChannels));
  launch(selective_scan_kernel<T, kChannels, kSplits, kVectors>,
         {.grid = dim3(blocks, static_cast<unsigned>(args.sequences.seqs)),
          .block = dim3(4 * kChannels * kSplits),
          .shared_bytes = sizeof(Tile<T, kChannels, kSplits>),
          .stream = stream},
         args);
}

template <class T, int kIndex>
void run_vectors(const SelectiveScanArgs& args, cudaStream_t stream) {
  run<T, kScanTiles[kIndex].channels, kScanTiles[kIndex].splits, true>(args, stream);
}

template <class T>
void with_tile(const SelectiveScanArgs& args, const SelectiveScanTile& tile, cudaStream_t stream) {
  static_assert(std::size(kScanTiles) == 3);
  // element by element: one tile for all
  if (!all_vectors(args)) return run<T, kScanTiles[0].channels, kScanTiles[0].splits, false>(args, stream);
  if (tile == kScanTiles[0]) return run_vectors<T, 0>(args, stream);
  if (tile == kScanTiles[1]) return run_vectors<T, 1>(args, stream);
  run_vectors<T, 2>(args, stream);
}

}  // namespace

void selective_scan(const SelectiveScanArgs& args, const SelectiveScanTile& tile, cudaStream_t stream) {
  check_args(args);
  if (args.sequences.seqs == 0 || args.sequences.t == 0) return;
  check_pointers(args);
  check(std::find(std::begin(kScanTiles), std::end(kScanTiles), tile) != std::end(kScanTiles),
        "selective_scan: tile", "one of kScanTiles",
        std::to_string(tile.channels) + " x " + std::to_string(tile.splits));
  args.dtype == DType::bf16 ? with_tile<bf16>(args, tile, stream) : with_tile<float>(args, tile, stream);
}

void selective_scan(const SelectiveScanArgs& args, cudaStream_t stream) {
  check_args(args);
  if (args.sequences.seqs == 0 || args.sequences.t == 0) return;
  selective_scan(args, selective_scan_tile(current_arch(), args.channels, args.sequences.seqs), stream);
}

}  // namespace crosscurrent::cuda
