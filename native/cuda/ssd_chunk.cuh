// The tensor-core kernels of ssd: what a segment does to the state, the states before all segments, the
// outputs.
//
// A block takes two heads of a group through a segment, chunk after chunk of 64 tokens. A warp holds 16 rows
// of one head's state [64, states] in its accumulators all the way, four warps a head (two with 32 rows: 250
// registers, 8 warps an SM, 356 us instead of the time in docs/cuda.md for 80 heads and 8192 tokens).
// With cs the running sum of Δ a in a chunk and w_t = Δ_t exp(cs_end - cs_t):
//
//   G = C Bᵀ                                        16 tokens a warp
//   M = (G ∘ exp(cs_i - cs_j) Δ_j) + d I, j <= i    through shared memory: every warp of the head needs it
//   y = exp(cs_i) (C Sᵀ) + M x                      S from the accumulators: as they lie they are a B operand
//   S = exp(cs_end) S + (w x)ᵀ B                    xᵀ is an A operand here and a B operand in the line above
//
// Longer than 400 lines: three kernels on one layout of the state in registers, which is read beside them.
#pragma once

#include "ptx.cuh"
#include "ssd.h"
#include "ssd_tile.h"
#include "ssm_math.cuh"

namespace crosscurrent::cuda {

constexpr int kSsdThreads = 256;  // four warps a head

// A segment of a sequence, the same for all threads of a block.
struct SsdSegment {
  int seq;       // -1: none
  int index;     // in the sequence
  int first;     // token
  int tokens;    // of this segment
  bool is_last;  // of its sequence
};

// Segment `unit` of all sequences; a warp calls it together.
__device__ __forceinline__ SsdSegment find_segment(const PrefillSequences& sequences, int64_t unit) {
  const int lane = threadIdx.x % 32;
  int64_t before = 0;
  for (int base = 0; base < sequences.seqs; base += 32) {
    const int seq = base + lane;
    const int first = seq < sequences.seqs ? sequences.first[seq] : 0;
    const int count = seq < sequences.seqs ? sequences.first[seq + 1] - first : 0;
    const int segments = (count + kSsdSegment - 1) / kSsdSegment;
    int sum = segments;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xFFFFFFFF, sum, offset);
      if (lane >= offset) sum += other;
    }
    const int64_t begin = before + sum - segments;
    const uint32_t found = __ballot_sync(0xFFFFFFFF, unit >= begin && unit < begin + segments);
    if (found != 0) {
      const int owner = __ffs(static_cast<int>(found)) - 1;
      const int index = __shfl_sync(0xFFFFFFFF, static_cast<int>(unit - begin), owner);
      const int first_of = __shfl_sync(0xFFFFFFFF, first, owner),
                count_of = __shfl_sync(0xFFFFFFFF, count, owner);
      const int done = index * kSsdSegment;
      return {base + owner, index, first_of + done, min(kSsdSegment, count_of - done),
              done + kSsdSegment >= count_of};
    }
    before += __shfl_sync(0xFFFFFFFF, sum, 31);
  }
  return {-1, 0, 0, 0, false};
}

// The same number, as far as the compiler knows not the one of the last chunk: else it computes all addresses
// of a chunk before the first and then has no registers for them.
__device__ __forceinline__ int fresh(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// 16-byte parts of a row of kParts of them, placed so that eight rows of one column lie in different banks.
template <int kParts>
__device__ __forceinline__ int swizzled(int row, int part) {
  return (row * kParts + (part ^ (row & 7))) * 8;  // in elements
}

template <int kStates, bool kOutputs>
struct SsdShared {
  static constexpr int kParts = kStates / 8;
  bf16 x[2][2][kSsdChunk * 64];  // [stage][head][token, row of the state]; y takes the place of x
  bf16 b[2][kSsdChunk * kStates];
  bf16 c[2][kOutputs ? kSsdChunk * kStates : 8];
  bf16 m[kOutputs ? 2 : 1][kOutputs ? kSsdChunk * kSsdChunk : 8];  // [head][token, token]
  // of the whole segment, [head]
  float delta[2][kSsdSegment];
  float sum[2][kSsdSegment];              // cs, times log2(e)
  float weight[2][kSsdSegment];           // w; without outputs to the end of the segment instead of the chunk
  float end[2][kSsdSegment / kSsdChunk];  // the last cs of each chunk
  SsdSegment segment;                     // of the block: here, since it would cost registers
};

template <int kStates, bool kOutputs>
struct SsdBlock {
  using Shared = SsdShared<kStates, kOutputs>;
  static constexpr int kParts = Shared::kParts;
  const SsdArgs& args;
  Shared& shared;
  const SsdSegment& segment;  // in shared memory
  int head0, heads, group;    // heads: 1 or 2
  int lane, own_head, row0;   // of this warp: which of the two heads, first row of its state
  int tile;                   // of 16 tokens, for M

  __device__ int valid(int chunk) const { return min(kSsdChunk, segment.tokens - chunk * kSsdChunk); }

  // Rows a thread copies are a multiple of 8 apart: their parts lie at the same place of a row.
  __device__ void fetch_x(int chunk) const {
    constexpr int kRows = kSsdThreads / 16;
    const int thread = fresh(threadIdx.x);
    const int part = thread % 8, head = thread / 8 % 2, token = thread / 16;
    const int left = valid(chunk) - token;
    const bf16* from = static_cast<const bf16*>(args.x) +
                       (segment.first + chunk * kSsdChunk + token) * args.x_stride +
                       (head0 + (head < heads ? head : 0)) * 64 + part * 8;
    bf16* const to = &shared.x[chunk & 1][head][swizzled<8>(token, part)];
#pragma unroll
    for (int i = 0; i < kSsdChunk / kRows; ++i)
      copy_async_16(to + i * kRows * 64, from + i * kRows * args.x_stride, kRows * i < left ? 16 : 0);
  }

  __device__ void fetch_states(bf16* tile, const void* rows, int64_t stride, int chunk) const {
    constexpr int kRows = kSsdThreads / kParts;
    const int thread = fresh(threadIdx.x);
    const int part = thread % kParts, token = thread / kParts;
    const int left = valid(chunk) - token;
    const bf16* from = static_cast<const bf16*>(rows) + (segment.first + chunk * kSsdChunk + token) * stride +
                       group * kStates + part * 8;
    bf16* const to = tile + swizzled<kParts>(token, part);
#pragma unroll
    for (int i = 0; i < kSsdChunk / kRows; ++i)
      copy_async_16(to + i * kRows * kStates, from + i * kRows * stride, kRows * i < left ? 16 : 0);
  }
  __device__ void fetch_b(int chunk) const {
    fetch_states(shared.b[chunk & 1], args.b, args.b_stride, chunk);
  }
  __device__ void fetch_c(int chunk) const {
    fetch_states(shared.c[chunk & 1], args.c, args.c_stride, chunk);
  }

  // Δ, cs and w of all tokens of the segment: a warp takes two chunks of one head, a lane two tokens of each.
  // Tokens that do not exist leave the state alone. All threads call it; ends with a barrier.
  __device__ void write_gates(int head, int warp) const {
    constexpr int kChunks = kSsdSegment / kSsdChunk / 4;  // of a warp
    const float dt_bias = args.dt_bias[head], rate = args.a[head] * kLog2E;
    float dt[kChunks][2], delta[kChunks][2], sum[kChunks][2], end[kChunks];
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int token = (warp % 4 * kChunks + k) * kSsdChunk + 2 * lane;
      const bf16* const from =
          static_cast<const bf16*>(args.dt) + int64_t{segment.first + token} * args.dt_stride + head;
#pragma unroll
      for (int i = 0; i < 2; ++i)
        dt[k][i] = token + i < segment.tokens ? __bfloat162float(from[i * args.dt_stride]) : 0.0f;
    }
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int chunk = warp % 4 * kChunks + k, token = chunk * kSsdChunk + 2 * lane;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float v = softplus(dt[k][i] + dt_bias);
        const float clamped = v < args.dt_min   ? args.dt_min
                              : v > args.dt_max ? args.dt_max
                                                : v;  // a NaN stays
        delta[k][i] = token + i < segment.tokens ? clamped : 0.0f;
        sum[k][i] = delta[k][i] * rate;
      }
      sum[k][1] += sum[k][0];
      float before = sum[k][1];
#pragma unroll
      for (int offset = 1; offset < 32; offset *= 2) {
        const float other = __shfl_up_sync(0xFFFFFFFF, before, offset);
        if (lane >= offset) before += other;
      }
      end[k] = __shfl_sync(0xFFFFFFFF, before, 31);
      before = __shfl_up_sync(0xFFFFFFFF, before, 1);
      if (lane > 0) sum[k][0] += before, sum[k][1] += before;
      *reinterpret_cast<float2*>(&shared.delta[own_head][token]) = {delta[k][0], delta[k][1]};
      *reinterpret_cast<float2*>(&shared.sum[own_head][token]) = {sum[k][0], sum[k][1]};
      if (lane == 0) shared.end[own_head][chunk] = end[k];
    }
    if constexpr (!kOutputs) __syncthreads();
#pragma unroll
    for (int k = 0; k < kChunks; ++k) {
      const int chunk = warp % 4 * kChunks + k, token = chunk * kSsdChunk + 2 * lane;
      float after = 0;
      if constexpr (!kOutputs) {
        for (int later = chunk + 1; later < kSsdSegment / kSsdChunk; ++later)
          after += shared.end[own_head][later];
      }
      *reinterpret_cast<float2*>(&shared.weight[own_head][token]) = {
          delta[k][0] * exp2_fast(end[k] - sum[k][0] + after),
          delta[k][1] * exp2_fast(end[k] - sum[k][1] + after)};
    }
    __syncthreads();
  }
};

// Registers of a warp's 16 rows: [8 states][fragment].
template <int kStates>
using SsdState = float[kStates / 8][4];

// body(state at row, column and the next column, index of the first element in [64, states])
template <int kStates, class Body>
__device__ __forceinline__ void each_state_pair(SsdState<kStates>& s, int row0, int lane, Body body) {
#pragma unroll
  for (int n = 0; n < kStates / 8; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      body(s[n][2 * half], s[n][2 * half + 1],
           (row0 + 8 * half + lane / 4) * kStates + 8 * n + 2 * (lane % 4));
  }
}

// Tile kTile of 16 tokens of M, of the warp's head, into shared memory.
template <int kTile, int kStates>
__device__ __forceinline__ void write_masked(const SsdBlock<kStates, true>& block, int chunk, float d) {
  constexpr int kParts = kStates / 8;
  auto& shared = block.shared;
  const int lane = fresh(block.lane), stage = chunk & 1, head = block.own_head;
  const bf16* const c = shared.c[stage];
  const bf16* const b = shared.b[stage];
  float g[2 * kTile + 2][4] = {};
#pragma unroll
  for (int k = 0; k < kStates / 16; ++k) {
    uint32_t a[4];
    load_matrix_x4(a, c + swizzled<kParts>(16 * kTile + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int j = 0; j <= kTile; ++j) {
      uint32_t r[4];
      load_matrix_x4(r, b + swizzled<kParts>(16 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
      mma_bf16(g[2 * j], a, r[0], r[1]);
      mma_bf16(g[2 * j + 1], a, r[2], r[3]);
    }
  }
  const int row = 16 * kTile + lane / 4, column = 2 * (lane % 4);
  const float* const sum = shared.sum[head] + chunk * kSsdChunk;
  const float* const delta = shared.delta[head] + chunk * kSsdChunk;
  const float here[2] = {sum[row], sum[row + 8]};
#pragma unroll
  for (int j = 0; j < 2 * kTile + 2; ++j) {
    const float2 there = *reinterpret_cast<const float2*>(sum + 8 * j + column);
    const float2 scale = *reinterpret_cast<const float2*>(delta + 8 * j + column);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float low = g[j][2 * half] * exp2_fast(here[half] - there.x) * scale.x;
      float high = g[j][2 * half + 1] * exp2_fast(here[half] - there.y) * scale.y;
      if (j >= 2 * kTile) {                                    // else all columns are in the past
        const int behind = row + 8 * half - (8 * j + column);  // how many tokens back the first column is
        low = behind > 0 ? low : behind == 0 ? low + d : 0.0f;
        high = behind > 1 ? high : behind == 1 ? high + d : 0.0f;
      }
      bf16* const to = &shared.m[head][swizzled<8>(row + 8 * half, j) + column];
      *reinterpret_cast<uint32_t*>(to) = pack_bf16(low, high);
    }
  }
}

// y of 64 tokens and the warp's 16 rows: [16 tokens][8 rows][fragment].
using SsdOutputs = float[4][2][4];

// y = exp(cs) C Sᵀ
template <int kStates>
__device__ __forceinline__ void from_state(const SsdBlock<kStates, true>& block, int chunk,
                                           const SsdState<kStates>& s, SsdOutputs& y) {
  constexpr int kParts = kStates / 8;
  const int lane = fresh(block.lane);
#pragma unroll
  for (int k = 0; k < kStates / 16; ++k) {
    const auto &low = s[2 * k], &high = s[2 * k + 1];
    const uint32_t b[2][2] = {{pack_bf16(low[0], low[1]), pack_bf16(high[0], high[1])},
                              {pack_bf16(low[2], low[3]), pack_bf16(high[2], high[3])}};
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t a[4];
      load_matrix_x4(a, block.shared.c[chunk & 1] + swizzled<kParts>(16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (int p = 0; p < 2; ++p) mma_bf16(y[m][p], a, b[p][0], b[p][1]);
    }
  }
  const float* const sum = block.shared.sum[block.own_head] + chunk * kSsdChunk;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const float upper = exp2_fast(sum[16 * m + lane / 4]), lower = exp2_fast(sum[16 * m + 8 + lane / 4]);
#pragma unroll
    for (int p = 0; p < 2; ++p)
      y[m][p][0] *= upper, y[m][p][1] *= upper, y[m][p][2] *= lower, y[m][p][3] *= lower;
  }
}

// S += (w x)ᵀ B and, with outputs, y += M x: 16 tokens at a time.
template <int kStates, bool kOutputs>
__device__ __forceinline__ void apply_tokens(const SsdBlock<kStates, kOutputs>& block, int chunk,
                                             SsdState<kStates>& s, SsdOutputs& y) {
  constexpr int kParts = kStates / 8;
  auto& shared = block.shared;
  const int lane = fresh(block.lane), stage = chunk & 1;
  const bf16* const x = shared.x[stage][block.own_head];
  const bf16* const b = shared.b[stage];
  const float* const weight = shared.weight[block.own_head] + chunk * kSsdChunk;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t xt[4];
    load_matrix_transposed_x4(
        xt, x + swizzled<8>(16 * k + lane / 16 * 8 + lane % 8, block.row0 / 8 + lane / 8 % 2));
    if constexpr (kOutputs) {
#pragma unroll
      for (int m = k; m < 4; ++m) {
        uint32_t a[4];
        load_matrix_x4(a, shared.m[block.own_head] + swizzled<8>(16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int p = 0; p < 2; ++p) mma_bf16(y[m][p], a, xt[p], xt[p + 2]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 w = *reinterpret_cast<const float2*>(weight + 16 * k + i / 2 * 8 + 2 * (lane % 4));
      xt[i] = pack_bf16(__uint_as_float(xt[i] << 16) * w.x, __uint_as_float(xt[i] & 0xFFFF0000u) * w.y);
    }
#pragma unroll
    for (int n = 0; n < kStates / 16; ++n) {
      uint32_t r[4];
      load_matrix_transposed_x4(r, b + swizzled<kParts>(16 * k + lane % 16, 2 * n + lane / 16));
      mma_bf16(s[2 * n], xt, r[0], r[1]);
      mma_bf16(s[2 * n + 1], xt, r[2], r[3]);
    }
  }
}

// Through the place of x, so that rows leave 16 bytes at a time.
template <int kStates>
__device__ __forceinline__ void write_outputs(const SsdBlock<kStates, true>& block, int chunk,
                                              const SsdOutputs& y) {
  const int lane = fresh(block.lane);
  bf16* const tile = block.shared.x[chunk & 1][block.own_head];
  __syncwarp();  // all lanes have read x
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int p = 0; p < 2; ++p) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = swizzled<8>(16 * m + 8 * half + lane / 4, block.row0 / 8 + p) + 2 * (lane % 4);
        *reinterpret_cast<uint32_t*>(tile + at) = pack_bf16(y[m][p][2 * half], y[m][p][2 * half + 1]);
      }
    }
  }
  __syncwarp();
  if (block.own_head >= block.heads) return;
  const int token0 = lane / 2, part = block.row0 / 8 + lane % 2;
  const int left = block.valid(chunk) - token0;
  const bf16* const from = tile + swizzled<8>(token0, part);
  bf16* const to = static_cast<bf16*>(block.args.y) +
                   int64_t{block.segment.first + chunk * kSsdChunk + token0} * block.args.y_stride +
                   (block.head0 + block.own_head) * 64 + 8 * part;
#pragma unroll
  for (int i = 0; i < kSsdChunk / 16; ++i) {
    if (16 * i < left)
      *reinterpret_cast<uint4*>(to + 16 * i * block.args.y_stride) =
          *reinterpret_cast<const uint4*>(from + 16 * i * 64);
  }
}

// Without outputs: state [segment of the panel, heads, 64, states] from zero, and decay [segment, heads] of
// the whole segment; segments cut short have no successor and are skipped. With outputs: from the state
// before the segment.
template <int kStates, bool kOutputs>
__global__ void __launch_bounds__(kSsdThreads, kOutputs ? 1 : 2)
    ssd_chunk_kernel(const __grid_constant__ SsdArgs args, int64_t first_unit, int pairs, float* states,
                     float* decays) {
  extern __shared__ __align__(128) unsigned char raw_shared[];
  auto& shared = *reinterpret_cast<SsdShared<kStates, kOutputs>*>(raw_shared);
  const SsdSegment found = find_segment(args.sequences, first_unit + blockIdx.y);
  if (found.seq < 0 || (!kOutputs && found.tokens < kSsdSegment)) return;
  if (threadIdx.x == 0) shared.segment = found;
  __syncthreads();
  const SsdSegment& segment = shared.segment;
  const int per_group = static_cast<int>(args.heads / args.groups),
            pair = static_cast<int>(blockIdx.x) % pairs;
  SsdBlock<kStates, kOutputs> block{args, shared, segment};
  block.group = static_cast<int>(blockIdx.x) / pairs;
  block.head0 = block.group * per_group + 2 * pair;
  block.heads = min(2, per_group - 2 * pair);
  // a processor partition has warps w and w + 4: one with much of M and one with little
  const int warp = threadIdx.x / 32;
  block.lane = threadIdx.x % 32;
  block.own_head = warp / 4, block.row0 = warp % 4 * 16, block.tile = warp < 4 ? warp : 7 - warp;
  const bool exists = block.own_head < block.heads;
  const int head = block.head0 + (exists ? block.own_head : 0);

  const int64_t elements = int64_t{64} * kStates;
  const auto state_at = [&] { return states + (blockIdx.y * args.heads + head) * elements; };
  SsdState<kStates> s;
  each_state_pair<kStates>(s, block.row0, block.lane, [&](float& low, float& high, int index) {
    float2 v{};
    if constexpr (kOutputs) v = *reinterpret_cast<const float2*>(state_at() + index);
    low = v.x, high = v.y;
  });

  const int chunks = (segment.tokens + kSsdChunk - 1) / kSsdChunk;
  const auto fetch = [&](int chunk) {
    if (chunk < chunks) {
      block.fetch_x(chunk);
      block.fetch_b(chunk);
      if constexpr (kOutputs) block.fetch_c(chunk);
    }
    copy_async_commit();
  };
  fetch(0);
  block.write_gates(head, warp);
  [[maybe_unused]] const float d = args.d[head];
  for (int chunk = 0; chunk < chunks; ++chunk) {
    copy_async_wait<0>();
    __syncthreads();
    fetch(chunk + 1);
    SsdOutputs y = {};
    if constexpr (kOutputs) {
      switch (block.tile) {
        case 0: write_masked<0, kStates>(block, chunk, d); break;
        case 1: write_masked<1, kStates>(block, chunk, d); break;
        case 2: write_masked<2, kStates>(block, chunk, d); break;
        default: write_masked<3, kStates>(block, chunk, d); break;
      }
      from_state<kStates>(block, chunk, s, y);
      __syncthreads();  // M is whole
      const float decay = exp2_fast(shared.end[block.own_head][chunk]);
      each_state_pair<kStates>(s, block.row0, block.lane,
                               [&](float& low, float& high, int) { low *= decay, high *= decay; });
    }
    apply_tokens<kStates, kOutputs>(block, chunk, s, y);
    if constexpr (kOutputs) write_outputs<kStates>(block, chunk, y);
  }

  if (!exists) return;
  if constexpr (kOutputs) {
    // after a whole segment the state is what ssd_states_kernel makes of it
    if (!segment.is_last || segment.tokens == kSsdSegment) return;
    float* const slot = args.s + (args.sequences.slot[segment.seq] * args.heads + head) * elements;
    each_state_pair<kStates>(s, block.row0, block.lane, [&](float& low, float& high, int index) {
      *reinterpret_cast<float2*>(slot + index) = {low, high};
    });
  } else {
    each_state_pair<kStates>(s, block.row0, block.lane, [&](float& low, float& high, int index) {
      *reinterpret_cast<float2*>(state_at() + index) = {low, high};
    });
    if (block.row0 != 0 || block.lane != 0) return;
    float total = 0;
    for (const float end : shared.end[block.own_head]) total += end;
    decays[blockIdx.y * args.heads + head] = exp2_fast(total);
  }
}

// From what each segment of the panel does to the state to the state before it, in place; the state after the
// last whole segment goes to the slot. A thread takes four elements of one sequence's state along.
__global__ void __launch_bounds__(256)
    ssd_states_kernel(const __grid_constant__ SsdArgs args, int64_t first_unit, int units, float* states,
                      const float* decays) {
  const int64_t elements = args.heads * args.head_dim * args.states;
  const int64_t at = (int64_t{blockIdx.x} * 256 + threadIdx.x) * 4;
  // the sequence's segments in the panel
  const SsdSegment segment = find_segment(args.sequences, first_unit + blockIdx.y);
  if (segment.seq < 0 || (segment.index > 0 && blockIdx.y > 0) || at >= elements) return;
  const int first = args.sequences.first[segment.seq];
  const int rest = args.sequences.first[segment.seq + 1] - first - segment.index * kSsdSegment;  // tokens
  const int count = min((rest + kSsdSegment - 1) / kSsdSegment, units - static_cast<int>(blockIdx.y));
  const int whole = min(rest / kSsdSegment, count);
  const int head = static_cast<int>(at / (args.head_dim * args.states));

  float4* const slot = reinterpret_cast<float4*>(args.s + args.sequences.slot[segment.seq] * elements + at);
  float4 state{};
  if (segment.index > 0 || args.sequences.length[segment.seq] > 0) state = *slot;
  constexpr int kAhead = 4;
  for (int i0 = 0; i0 < count; i0 += kAhead) {
    float4 added[kAhead];
    float decay[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      const int64_t unit = int64_t{blockIdx.y} + i0 + k;
      if (i0 + k >= whole) continue;
      added[k] = *reinterpret_cast<const float4*>(states + unit * elements + at);
      decay[k] = decays[unit * args.heads + head];
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (i0 + k >= count) break;
      *reinterpret_cast<float4*>(states + (int64_t{blockIdx.y} + i0 + k) * elements + at) = state;
      if (i0 + k >= whole) break;
      state.x = __fmaf_rn(decay[k], state.x, added[k].x);
      state.y = __fmaf_rn(decay[k], state.y, added[k].y);
      state.z = __fmaf_rn(decay[k], state.z, added[k].z);
      state.w = __fmaf_rn(decay[k], state.w, added[k].w);
    }
  }
  if (whole == count) *slot = state;
}

}  // namespace crosscurrent::cuda
