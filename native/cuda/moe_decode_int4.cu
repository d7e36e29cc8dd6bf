// moe_decode, 4-bit weights: the 16 bytes that a lane loads are its rows l / 4 and l / 4 + 8 of 64 columns,
// in the order of the mma (pack.h). Tokens come in rows and go to that order through shared memory.
#include "matmul_unpack.cuh"
#include "moe_decode.cuh"

namespace crosscurrent::cuda {
namespace {

using namespace moe;

// The same matrix of all experts.
struct Matrices {
  const std::byte* data;
  int64_t expert_bytes, scales_offset, zeros_offset;
  int blocks, groups;  // of an expert
};

struct Int4Step : MoeDecodeStep {
  Matrices in, out;
  int group_blocks_log2;  // blocks that share a scale
  bool has_bf16_scales;
};

constexpr int kTokenStride = kMoeInt4TokenStride, kTokenBytes = kMoeInt4TokenBytes;
constexpr int kScaleBytes = kMoeInt4ScaleBytes, kWeightBytes = kMoeInt4WeightBytes;
static_assert(kTokenStride == kBlockColumns + 8 && kMoeMostTopK == kRouterMaxTopK);

template <int kTokenTiles, int kRing>
constexpr int kStages = moe_int4_stages(kTokenTiles, kRing);
template <int kMost, bool kIsDown>
constexpr int kRingBytes = moe_int4_ring_bytes(kMost, kIsDown);

template <bool kGroup32, bool kZero>
struct Int4Weights {
  using Args = Int4Step;
  static constexpr int kColumns = kBlockColumns, kSets = kGroup32 ? 2 : 1;  // kSets: scales of a block
  static constexpr bool kJoinsHalves = true;

  static constexpr int shared_bytes(int most_tiles, bool is_down) {
    return kMoeWarps * moe_int4_ring_bytes(most_tiles, is_down);
  }

  const std::byte *words, *side;  // at this lane's part of the first block; side: scales or zero points
  int first_block, group_blocks_log2, side_stride, in_panel;
  bool has_bf16_scales;

  // Lanes 0 … 7 copy scales of rows l and l + 8, 16 … 23 their zero points; the lanes behind each the second
  // set.
  static __device__ __forceinline__ Int4Weights at(const Args& a, const Matrices& m, int64_t expert, int tile,
                                                   int first_block) {
    const int lane = threadIdx.x % 32, panel = tile / 4, in_panel = tile % 4;
    const std::byte* const base = m.data + expert * m.expert_bytes;
    const int64_t group = int64_t{panel} * m.groups;
    const std::byte* side = base + m.scales_offset + group * 128 + lane % 8 * 16 + in_panel * 4;
    if (lane >= 16) side = base + m.zeros_offset + group * 64 + lane % 8 * 8 + in_panel / 2 * 4;
    return {base + ((int64_t{panel} * m.blocks + first_block) * 4 + in_panel) * 512 + lane * 16,
            side,
            first_block,
            a.group_blocks_log2,
            lane < 16 ? 128 : 64,
            in_panel,
            a.has_bf16_scales};
  }
  template <bool kGated>
  static __device__ __forceinline__ Int4Weights hidden(const Args& a, int64_t expert, int tile) {
    return at(a, a.in, expert, tile, 0);
  }
  static __device__ __forceinline__ Int4Weights down(const Args& a, int64_t expert, int tile, int block) {
    return at(a, a.out, expert, tile, block);
  }

  // Block `step` from the first; called in order, `words` moves along.
  __device__ __forceinline__ void fetch_weights(unsigned char* slot, const std::byte*& words_of_step,
                                                int step) const {
    const int lane = threadIdx.x % 32;
    copy_async_16(slot + lane * 16, words_of_step);
    words_of_step += 2048;
    if (lane % 16 >= 8 * kSets || (!kZero && lane >= 16)) return;
    const int block = first_block + step;
    const int group = kGroup32 ? 2 * block + lane / 8 % 2 : block >> group_blocks_log2;
    copy_async<4>(slot + 512 + lane * 4, side + group * side_stride);
  }

  // Through a ring of copies of the warp's own: loads to registers, whose waits the compiler groups, took a
  // trip to memory a block (H100, 8 experts 4096 -> 14336, 16 tokens: 570 us).
  template <int kMost, bool kIsDown, int kTokenTiles, class Begin, class Middle>
  __device__ __forceinline__ void multiply(float (&d)[kTokenTiles][4], unsigned char* shared, int steps,
                                           const Begin& begin, int middle, const Middle& at_middle) const {
    constexpr int kRing = kRingBytes<kMost, kIsDown>, kDepth = kStages<kTokenTiles, kRing>;
    constexpr bool kWaits = kTokenTiles > 2;
    constexpr int kSlot = kWeightBytes + (kWaits ? 0 : kTokenTiles * kTokenBytes);
    static_assert(kDepth >= 2);
    const int lane = threadIdx.x % 32;
    unsigned char* const ring = shared + threadIdx.x / 32 * kRing + (kWaits ? kTokenBytes : 0);
    const std::byte* next_words = words;
#pragma unroll
    for (int i = 0; i < kDepth - 1; ++i)
      if (i < steps) fetch_weights(ring + i * kSlot, next_words, i);
    const Tokens<kTokenTiles> tokens = begin();
    const int place = (lane / 4 * kTokenStride + lane % 4 * 8) * 2;
    const bf16* next_tokens[kTokenTiles];
    int bytes[kTokenTiles];  // of a copy: of no token, zeros
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
      bytes[n] = tokens.rows[n] != nullptr ? 16 : 0;
      next_tokens[n] = tokens.rows[n] != nullptr ? tokens.rows[n] : tokens.base;
    }
    const auto fetch_tokens = [&](unsigned char* slot) {
      if constexpr (!kWaits) {
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          unsigned char* const to = slot + kWeightBytes + n * kTokenBytes + place;
          copy_async_16(to, next_tokens[n], bytes[n]);
          copy_async_16(to + 64, next_tokens[n] + 32, bytes[n]);
          next_tokens[n] += kColumns;
        }
      }
    };
#pragma unroll
    for (int i = 0; i < kDepth - 1; ++i) {
      if (i < steps) fetch_tokens(ring + i * kSlot);
      copy_async_commit();
    }
    for (int base = 0; base < steps; base += kDepth) {
#pragma unroll
      for (int stage = 0; stage < kDepth; ++stage) {
        const int step = base + stage, next = step + kDepth - 1;
        if (step >= steps) break;
        if (kIsDown && step == middle) at_middle();
        if (next < steps) {
          unsigned char* const to = ring + (stage + kDepth - 1) % kDepth * kSlot;
          fetch_weights(to, next_words, next);
          fetch_tokens(to);
        }
        copy_async_commit();
        copy_async_wait<kDepth - 1>();
        __syncwarp();
        const unsigned char* const slot = ring + stage * kSlot;
        const uint4 words_of = *reinterpret_cast<const uint4*>(slot + lane * 16);
        const uint32_t word[4] = {words_of.x, words_of.y, words_of.z, words_of.w};
        uint32_t a[4][4];  // 128 + q
#pragma unroll
        for (int i = 0; i < 4; ++i) Unpack<4>::biased(word[i], a[i]);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          if (kTokenTiles > 1 && 8 * n >= tokens.count) break;
          const unsigned char* rows = slot + kWeightBytes + n * kTokenBytes;
          if constexpr (kWaits) {
            unsigned char* const own = ring - kTokenBytes;
            uint4 x[2] = {};
            if (tokens.rows[n] != nullptr) {
              x[0] = *reinterpret_cast<const uint4*>(tokens.rows[n] + kColumns * step);
              x[1] = *reinterpret_cast<const uint4*>(tokens.rows[n] + kColumns * step + 32);
            }
            *reinterpret_cast<uint4*>(own + place) = x[0];
            *reinterpret_cast<uint4*>(own + place + 64) = x[1];
            __syncwarp();
            rows = own;
          }
          const unsigned char* const get = rows + (lane % 8 * kTokenStride + lane / 8 * 8) * 2;
          uint32_t b[8];
          load_matrix_x4(reinterpret_cast<uint32_t (&)[4]>(b[0]), get);
          load_matrix_x4(reinterpret_cast<uint32_t (&)[4]>(b[4]), get + 64);
          if constexpr (kWaits) __syncwarp();
#pragma unroll
          for (int set = 0; set < kSets; ++set) {
            constexpr int kSteps = 4 / kSets;
            // what the bias of the weights adds: sums of x, by an mma with ones, times 128 + zero
            const uint32_t ones[4] = {0x3F803F80, 0x3F803F80, 0x3F803F80, 0x3F803F80};
            float sum[4] = {}, part[4] = {};
#pragma unroll
            for (int i = kSteps * set; i < kSteps * (set + 1); ++i) {
              mma_bf16(sum, ones, b[2 * i], b[2 * i + 1]);
              mma_bf16(part, a[i], b[2 * i], b[2 * i + 1]);
            }
            uint32_t zeros = 0x0808;
            if constexpr (kZero)
              zeros = *reinterpret_cast<const uint16_t*>(slot + 512 + kScaleBytes + set * 32 + lane / 4 * 4 +
                                                         in_panel % 2 * 2);
            const float low = -128.0f - static_cast<float>(zeros & 0xFF);
            const float high = -128.0f - static_cast<float>(zeros >> 8);
            const uint32_t pair = *reinterpret_cast<const uint32_t*>(slot + 512 + set * 32 + lane / 4 * 4);
            const float2 by = has_bf16_scales
                                  ? float2{__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000)}
                                  : __half22float2(reinterpret_cast<const __half2&>(pair));
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const float exact = __fmaf_rn(sum[e % 2], e < 2 ? low : high, part[e]);
              d[n][e] = __fmaf_rn(e < 2 ? by.x : by.y, exact, d[n][e]);
            }
          }
        }
        __syncwarp();  // every lane has read the slot
      }
    }
    copy_async_wait<0>();
  }
};

Matrices matrices(const std::byte* data, const PackedShape& s) {
  return {data,
          s.bytes(),
          s.scales_offset(),
          s.zeros_offset(),
          static_cast<int>(s.blocks()),
          static_cast<int>(s.groups())};
}

void check_weights(const MoeDecodeInt4Args& a) {
  check(a.dim % kBlockColumns == 0, "moe_decode: dim", "a multiple of 64", a.dim);
  check(a.ff % kBlockColumns == 0, "moe_decode: ff", "a multiple of 64", a.ff);
  check(a.group == 32 || a.group == 64 || a.group == 128, "moe_decode: group", "32, 64 or 128", a.group);
  check(a.t * a.top_k <= kMoeInt4MostPairs, "moe_decode: t * top_k", "at most 1024", a.t * a.top_k);
  check(a.dim % a.group == 0 && a.ff % a.group == 0, "moe_decode: group", "a divisor of dim and ff", a.group);
}

}  // namespace

void moe_decode(const MoeDecodeInt4Args& args, Workspace workspace, cudaStream_t stream) {
  moe_decode_workspace(args);
  check_weights(args);
  if (args.t == 0) return;
  check_pointer("moe_decode: in", args.in, 256);
  check_pointer("moe_decode: down", args.down, 256);
  check_step(args, workspace);
  const Arch& arch = current_arch();
  if (arch.shared_bytes < kMoeInt4Shared)
    throw Error(Code::device_unavailable, "moe_decode: shared memory of the device, for weights of 4 bits",
                std::to_string(kMoeInt4Shared) + " bytes", std::to_string(arch.shared_bytes));
  const Int4Step step{args, matrices(args.in, args.in_shape()), matrices(args.down, args.down_shape()),
                      args.group == 128 ? 1 : 0, args.scale_type == ScaleType::bf16};
  auto* const hidden = static_cast<bf16*>(workspace.data);
  const auto run_with = [&]<bool kGroup32, bool kZero>() {
    run<Int4Weights<kGroup32, kZero>>(step, args.is_gated, hidden, stream);
  };
  const bool is_fine = args.group == 32;
  if (args.has_zero) return is_fine ? run_with.operator()<true, true>() : run_with.operator()<false, true>();
  is_fine ? run_with.operator()<true, false>() : run_with.operator()<false, false>();
}

}  // namespace crosscurrent::cuda
