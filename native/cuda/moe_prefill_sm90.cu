// The products of `moe_prefill` on wgmma: yᵀ = W xᵀ for the rows of each expert. Bound by wgmma with many
// rows an expert, by the experts' weights with few.
//
// W is the A operand, so rows of x lie on wgmma's n, which is cut to what an expert has: a group of 300 rows
// is two blocks of n = 152, not of 256. The two blocks of a cluster take the two halves of a group against
// the same 256 rows of W (128 of gate and the same of up, or 256 of down): each loads half of W for both.
// Blocks stay and take tile after tile.
//
//   W [256, 64]          --TMA, multicast----------> shared \
//   x [rows, 64], by row --cp.async, a warpgroup---> shared  > wgmma, 2 warpgroups x 2 tiles of 64 rows of W
//                                                            -> act · up in registers -> stmatrix, 16 bytes a
//                                                            lane -> y
//
// Rows of x of the tile after next are looked up while a tile is loaded.
#include "moe_prefill_kernels.h"
#include "moe_prefill_wgmma.cuh"
#include "ptx.cuh"
#include "tensor_map.h"

namespace crosscurrent::cuda {
namespace {

constexpr int kStages = 4, kColumns = 64, kCluster = 2, kConsumers = 2;
constexpr int kThreads = 128 * (kConsumers + 1);
constexpr int kPanelBytes = 64 * kColumns * 2;  // 64 rows of W
constexpr int kWeightBytes = 4 * kPanelBytes;
constexpr int kStageBytes = kWeightBytes + kMoeMostWidth * kColumns * 2;
constexpr int kTmaRows = 32;  // of x, where it is in order
// A thread of the producers and of the consumers: together no more than the launch has taken.
constexpr int kProducerRegisters = 72, kConsumerRegisters = 216;
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= 3 * (65536 / kThreads / 8 * 8));
constexpr int kStagingBytes = 1024;  // of a warp: twice 16 rows of 16 outputs

struct Parameters {
  CUtensorMap left, right, rows;  // rows: of x, where they are in order
  const bf16* x;
  const int32_t* row_token;
  bf16* y;
  const MoeGroup* groups;
  const int32_t* group_count;
  int n, k, k_blocks, tiles;  // tiles: of W, an expert
  // act(v) = v · (1 / (1 + exp2(v · (linear + cubic · v²)))), or v · max(v, 0), or v
  bool is_sigmoid, is_square;
  float linear, cubic;
};

struct Shared {
  unsigned char stages[kStages][kStageBytes];
  unsigned char staging[4 * kConsumers][kStagingBytes];
  uint64_t full[kStages], empty[kStages];
  int4 tile[kStages];  // with the first stage of a tile: first row, rows, first output
};
static_assert(sizeof(Shared) <= 227 * 1024 && kStageBytes % 1024 == 0);

// Half a group against a tile of W.
struct Tile {
  int weight_row;  // of gate, up or down, all experts'
  int first_output;
  int row, rows;
};

template <bool kGated>
__device__ __forceinline__ Tile tile_of(const Parameters& p, const MoeGroup& g, int item, int rank) {
  constexpr int kOutputs = kGated ? 128 : 256;
  const int local = item - g.run_first * p.tiles, tile = local / g.run_groups;
  const int first = g.run_row + (local - tile * g.run_groups) * g.group_rows;
  const int rows = min(g.group_rows, g.run_end - first), half = (rows + 1) / 2;
  return {g.expert * p.n + tile * kOutputs, tile * kOutputs, first + rank * half,
          rank == 0 ? half : rows - half};
}

// Announces the stage; this block's half of W, the two tiles of 64 of one consumer, to both blocks.
template <bool kGated>
__device__ __forceinline__ void load_weights(const Parameters& p, Shared& shared, int stage, const Tile& tile,
                                             int rank, int block, int more_bytes) {
  if (block == 0) shared.tile[stage] = {tile.row, tile.rows, tile.first_output, 0};
  mbarrier_expect(&shared.full[stage], kWeightBytes + more_bytes);
  const int row = tile.weight_row + rank * (kGated ? 64 : 128), k = block * kColumns;
  unsigned char* const panels = shared.stages[stage] + rank * 2 * kPanelBytes;
  tma_load_multicast(panels, &p.left, k, row, &shared.full[stage], 3);
  tma_load_multicast(panels + kPanelBytes, kGated ? &p.right : &p.left, k, kGated ? row : row + 64,
                     &shared.full[stage], 3);
}

// The producers of gate and up, a warpgroup. A thread copies 16 bytes of every sixteenth row.
template <bool kGated>
__device__ __forceinline__ void produce(const Parameters& p, Shared& shared, int clusters, int cluster,
                                        int rank, int items) {
  constexpr int kRows = kMoeMostWidth / 16;
  const int thread = threadIdx.x, first_row = thread / 8;
  const int column = 8 * (thread % 8);
  const int at = first_row * 128 + ((thread % 8 ^ first_row % 8) << 4);
  const auto group_of = [&](int item) { return p.groups[item < items ? item / p.tiles : 0]; };
  const auto look_up = [&](const Tile& tile, int (&rows)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      rows[i] = -1;
      if (first_row + 16 * i < tile.rows) rows[i] = p.row_token[tile.row + first_row + 16 * i];
    }
  };
  int rows[kRows], next_rows[kRows];
  Tile tile = tile_of<kGated>(p, group_of(cluster), cluster, rank);
  look_up(tile, next_rows);
  MoeGroup next_group = group_of(cluster + clusters);
  int stage = 0, phase = 1;  // phase 1: every stage begins empty
  for (int item = cluster; item < items; item += clusters) {
    const Tile now = tile;
#pragma unroll
    for (int i = 0; i < kRows; ++i) rows[i] = next_rows[i];
    if (item + clusters < items) {
      tile = tile_of<kGated>(p, next_group, item + clusters, rank);
      look_up(tile, next_rows);
      next_group = group_of(item + 2 * clusters);
    }
    for (int block = 0; block < p.k_blocks; ++block) {
      mbarrier_wait(&shared.empty[stage], phase);
      if (thread == 0) load_weights<kGated>(p, shared, stage, now, rank, block, 0);
      unsigned char* const to = shared.stages[stage] + kWeightBytes + at;
      const int k = block * kColumns + column;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        if (16 * i >= now.rows) continue;
        const bool inside = k < p.k && rows[i] >= 0;
        copy_async_16(to + i * 2048, inside ? p.x + static_cast<int64_t>(rows[i]) * p.k + k : p.x,
                      inside ? 16 : 0);
      }
      mbarrier_arrive_copied(&shared.full[stage]);
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
  }
}

// The producer of down, one thread: rows of x are in order.
__device__ __forceinline__ void produce_in_order(const Parameters& p, Shared& shared, int clusters,
                                                 int cluster, int rank, int items) {
  const auto group_of = [&](int item) { return p.groups[item < items ? item / p.tiles : 0]; };
  MoeGroup next_group = group_of(cluster);
  int stage = 0, phase = 1;
  for (int item = cluster; item < items; item += clusters) {
    const Tile tile = tile_of<false>(p, next_group, item, rank);
    next_group = group_of(item + clusters);
    const int boxes = (tile.rows + kTmaRows - 1) / kTmaRows;  // with rows that are another's: not stored
    for (int block = 0; block < p.k_blocks; ++block) {
      mbarrier_wait(&shared.empty[stage], phase);
      load_weights<false>(p, shared, stage, tile, rank, block, boxes * kTmaRows * 128);
      unsigned char* const to = shared.stages[stage] + kWeightBytes;
      for (int i = 0; i < boxes; ++i)
        tma_load(to + i * kTmaRows * 128, &p.rows, block * kColumns, tile.row + i * kTmaRows,
                 &shared.full[stage]);
      if (++stage == kStages) stage = 0, phase ^= 1;
    }
  }
}

[[maybe_unused]] __device__ __forceinline__ float activated(const Parameters& p, float v) {
  const float sigmoid = __fdividef(1.0f, 1.0f + exp2_fast(v * fmaf(p.cubic, v * v, p.linear)));
  return v * (p.is_sigmoid ? sigmoid : p.is_square ? fmaxf(v, 0.0f) : 1.0f);
}

struct Consumer {
  int warpgroup, warp, lane;
  int stage = 0, phase = 0;
};

// To the producers of all blocks of the cluster.
template <int kBlocks>
__device__ __forceinline__ void release(Shared& shared, int stage) {
  if (threadIdx.x % 128 < kBlocks) mbarrier_arrive_remote(&shared.empty[stage], threadIdx.x % 128);
}

// All of k, then y.
template <int kWidth, bool kGated, bool kIsDown>
__device__ __forceinline__ void consume(const Parameters& p, Shared& shared, Consumer& c, int4 tile) {
  float d[2][kWidth / 2] = {};  // set here: ptxas would keep what is only ever added to alive between tiles
  for (int block = 0; block < p.k_blocks; ++block) {
    mbarrier_wait(&shared.full[c.stage], c.phase);
    if constexpr (!kIsDown) fence_async_shared();  // rows of x came by cp.async
    const unsigned char* const base = shared.stages[c.stage];
    const uint64_t x = wgmma_matrix(base + kWeightBytes, 1024, Swizzle::bytes_128);
    const uint64_t w = wgmma_matrix(base + c.warpgroup * 2 * kPanelBytes, 1024, Swizzle::bytes_128);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kColumns / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        wgmma_shared<kWidth>(d[i], wgmma_advance(w, i * kPanelBytes + 32 * step), wgmma_advance(x, 32 * step),
                             true);
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (block > 0) release<kCluster>(shared, (c.stage + kStages - 1) % kStages);
    if (++c.stage == kStages) c.stage = 0, c.phase ^= 1;
  }
  wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kWidth / 2; ++i)
    asm volatile("" : "+f"(d[0][i]), "+f"(d[1][i])::"memory");  // no use before
  release<kCluster>(shared, (c.stage + kStages - 1) % kStages);

  unsigned char* const staging = shared.staging[4 * c.warpgroup + c.warp];
  const int first_row = tile.x, rows = tile.y;
  const int put_row = c.lane / 16 * 8 + c.lane % 8, get_row = c.lane / 2;
  const int put = put_row * 32 + ((c.lane / 8 % 2 ^ put_row / 4 % 2) << 4);
  const int get = get_row * 32 + ((c.lane % 2 ^ get_row / 4 % 2) << 4);
  const int output = tile.z + c.warpgroup * (kGated ? 64 : 128) + 16 * c.warp + 8 * (c.lane % 2);
#pragma unroll
  for (int j = 0; j < (kWidth + 15) / 16; ++j) {
    if (16 * j >= rows) continue;  // not break: the loop must unroll
#pragma unroll
    for (int i = 0; i < (kGated ? 1 : 2); ++i) {
      uint32_t r[4] = {};
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (16 * j + e / 2 * 8 >= kWidth) continue;
        float low = d[i][8 * j + 2 * e], high = d[i][8 * j + 2 * e + 1];
        if constexpr (!kIsDown) low = activated(p, low), high = activated(p, high);
        if constexpr (kGated) low *= d[1][8 * j + 2 * e], high *= d[1][8 * j + 2 * e + 1];
        r[e] = pack_bf16(low, high);
      }
      unsigned char* const half = staging + (kGated ? j : i) % 2 * 512;
      store_matrix_transposed_x4(half + put, r);
      __syncwarp();
      const uint4 v = *reinterpret_cast<const uint4*>(half + get);
      const int row = 16 * j + get_row, column = output + 64 * i;
      if (row < rows && column < p.n)
        *reinterpret_cast<uint4*>(p.y + static_cast<int64_t>(first_row + row) * p.n + column) = v;
    }
  }
}

template <int kWidth>
constexpr int kNextWidth = moe_wgmma_width(kWidth + 1);

// The narrowest width, of those from kWidth on, that holds the rows.
template <int kWidth, bool kGated, bool kIsDown>
__device__ __forceinline__ void consume_from(const Parameters& p, Shared& shared, Consumer& c, int4 tile) {
  if constexpr (kWidth < kMoeMostWidth) {
    if (tile.y > kWidth) return consume_from<kNextWidth<kWidth>, kGated, kIsDown>(p, shared, c, tile);
  }
  consume<kWidth, kGated, kIsDown>(p, shared, c, tile);
}

template <bool kGated, bool kIsDown>
__global__ void __launch_bounds__(kThreads, 1) moe_sm90_kernel(const __grid_constant__ Parameters p) {
  if constexpr (kSm90a) {
    extern __shared__ __align__(1024) unsigned char bytes[];
    Shared& shared = *reinterpret_cast<Shared*>(bytes);
    const int rank = cluster_rank(), cluster = static_cast<int>(blockIdx.x) / kCluster;
    const int clusters = static_cast<int>(gridDim.x) / kCluster;
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) {
        mbarrier_init(&shared.full[i], kIsDown ? 1 : 1 + 128);
        mbarrier_init(&shared.empty[i], kConsumers * kCluster);
      }
      mbarrier_init_fence();
    }
    launch_dependents();
    cluster_sync();
    grid_dependency_wait();
    const int items = *p.group_count * p.tiles;
    if (threadIdx.x < 128) {
      lower_registers<kProducerRegisters>();
      if constexpr (kIsDown) {
        if (threadIdx.x == 0) produce_in_order(p, shared, clusters, cluster, rank, items);
      } else {
        if (cluster < items) produce<kGated>(p, shared, clusters, cluster, rank, items);
      }
    } else {
      raise_registers<kConsumerRegisters>();
      Consumer c{static_cast<int>(threadIdx.x) / 128 - 1, static_cast<int>(threadIdx.x) / 32 % 4,
                 static_cast<int>(threadIdx.x) % 32};
      for (int item = cluster; item < items; item += clusters) {
        mbarrier_wait(&shared.full[c.stage], c.phase);
        consume_from<16, kGated, kIsDown>(p, shared, c, shared.tile[c.stage]);
      }
    }
    // No block leaves while the other may still arrive at its barriers or write its stages.
    cluster_sync();
  }
}

}  // namespace

void moe_matmul_sm90(const MoeMatmul& m, cudaStream_t stream) {
  constexpr float kLog2E = 1.4426950408889634f;
  const bool is_gated = m.right != nullptr;
  const auto map = [&](const bf16* data, int64_t rows, uint32_t box) {
    return tensor_map(data, {.size = {static_cast<uint64_t>(m.k), static_cast<uint64_t>(rows)},
                             .stride_bytes = {static_cast<uint64_t>(2 * m.k)},
                             .box = {kColumns, box}});
  };
  const int64_t weight_rows = int64_t{m.experts} * m.n;
  Parameters p{.left = map(m.left, weight_rows, 64),
               .right = map(is_gated ? m.right : m.left, weight_rows, 64),
               .rows = map(m.x, m.x_rows, kTmaRows),
               .x = m.x,
               .row_token = m.row_token,
               .y = m.y,
               .groups = m.groups,
               .group_count = m.group_count,
               .n = m.n,
               .k = m.k,
               .k_blocks = ceil_div(m.k, kColumns),
               .tiles = ceil_div(m.n, is_gated ? 128 : 256),
               .is_sigmoid = m.activation == Activation::silu || m.activation == Activation::gelu,
               .is_square = m.activation == Activation::relu2};
  // gelu, tanh form: v · sigmoid(2 sqrt(2 / pi) (v + 0.044715 v³))
  const bool is_gelu = m.activation == Activation::gelu;
  p.linear = -kLog2E * (is_gelu ? 1.5957691216057308f : 1.0f);
  p.cubic = is_gelu ? 0.044715f * p.linear : 0.0f;
  const int64_t most = m.most_groups * p.tiles;
  const auto clusters = static_cast<unsigned>(std::min<int64_t>(most, current_arch().sms / kCluster));
  launch(is_gated    ? moe_sm90_kernel<true, false>
         : m.is_down ? moe_sm90_kernel<false, true>
                     : moe_sm90_kernel<false, false>,
         {.grid = dim3(clusters * kCluster),
          .block = dim3(kThreads),
          .shared_bytes = sizeof(Shared),
          .stream = stream,
          .cluster = kCluster,
          .dependent = true},
         p);
}

}  // namespace crosscurrent::cuda
