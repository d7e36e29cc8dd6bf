#include "matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "../error.h"
#include "isa.h"
#include "matmul_kernels.h"
#include "pool.h"
#include "quant_blocks.h"
#include "row_quant.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__x86_64__)
constexpr IsaTables<MatmulKernels> kKernels{
    .v2 = &kMatmulV2, .avx2 = &kMatmulAvx2, .avx_vnni = &kMatmulAvxVnni, .avx512_vnni = &kMatmulAvx512Vnni};
#elif defined(__aarch64__)
constexpr IsaTables<MatmulKernels> kKernels{.v2 = &kMatmulV2, .dotprod = &kMatmulDotprod};
#else
constexpr IsaTables<MatmulKernels> kKernels{.v2 = &kMatmulV2};
#endif

constexpr int64_t kRowBlock = 256;               // rows quantised at a time: bounds the scratch
constexpr int64_t kRowBytesInCache = 192 << 10;  // of activations that one pass over a panel reuses from L2
constexpr int64_t kManyRows = 12;        // from here on stored weights are expanded for exact products
constexpr double kChunkSeconds = 25e-6;  // below this a chunk costs more to hand over than to compute
constexpr double kFlopRate = 1e11,
                 kByteRate = 2e10;  // of one thread; only the split of the work depends on them

bool is_quantized(const PackedPart& part, Activations activations) {
  if (activations == Activations::exact) return false;
  return part.layout != Layout::stored || part.dtype == DType::q8_0;
}

bool needs_quantized_rows(const PackPlan& plan, Activations activations) {
  return std::any_of(plan.parts.begin(), plan.parts.end(),
                     [&](const PackedPart& part) { return is_quantized(part, activations); });
}

// Whether x is copied to pieces (see StoredArgs).
bool needs_pieces(const PackPlan& plan, int64_t m, Activations activations) {
  return m >= kManyRows && std::any_of(plan.parts.begin(), plan.parts.end(), [&](const PackedPart& part) {
           return part.layout == Layout::stored && !is_quantized(part, activations);
         });
}

int64_t units_of(const PackedPart& part) { return (part.n + kPanel - 1) / kPanel; }

// One call's state for a block of at most kRowBlock rows.
struct Block {
  const MatmulArgs& args;
  const MatmulKernels& kernels;
  RowQuantView rows;
  float* pieces;  // of x, or null
  const float* x;
  float* y;
  int64_t m;
};

StoredType stored_type(DType dtype) {
  switch (dtype) {
    case DType::f16: return kStoredF16;
    case DType::bf16: return kStoredBf16;
    case DType::q8_0: return kStoredQ8_0;
    default: return kStoredF32;
  }
}

void run_stored(const Block& block, const PackedPart& part, int64_t unit, int64_t row, int64_t m) {
  const MatmulArgs& args = block.args;
  const int64_t k = args.weight->plan.k, column = unit * kPanel;
  const std::byte* weights =
      args.weight->part(args.expert, part) + static_cast<size_t>(column) * part.row_bytes;
  StoredArgs a{};
  a.weights = weights;
  a.row_bytes = part.row_bytes;
  a.type = stored_type(part.dtype);
  a.columns = std::min<int64_t>(kPanel, part.n - column);
  a.k = k;
  a.m = m;
  a.x = block.x + row * args.x_stride;
  a.x_stride = args.x_stride;
  a.pieces = block.pieces;  // of exact products, which take all rows at once
  a.class_stride = block.m * kClassStride;
  a.piece_stride = kClasses * a.class_stride;
  a.y = block.y + row * args.y_stride + part.n0 + column;
  a.y_stride = args.y_stride;
  a.bias = args.bias != nullptr ? args.bias + part.n0 + column : nullptr;
  if (is_quantized(part, args.activations)) {
    a.rows = row_quant_from(block.rows, row);
    block.kernels.stored_int8(&a);
    return;
  }
  std::vector<float> expanded;
  if (quant_traits(part.dtype).group != 0 && part.dtype != DType::q8_0) {
    expanded.resize(static_cast<size_t>(a.columns * k));
    for (int64_t c = 0; c < a.columns; ++c)
      expand_row(part.dtype, weights + static_cast<size_t>(c) * part.row_bytes, k, expanded.data() + c * k);
    a.weights = expanded.data();
    a.row_bytes = static_cast<size_t>(k) * sizeof(float);
  }
  block.kernels.stored_exact(&a);
}

void run_panel(const Block& block, const PackedPart& part, int64_t unit, int64_t row, int64_t m) {
  const MatmulArgs& args = block.args;
  const int64_t column = unit * kPanel;
  PanelArgs a{};
  a.panel = args.weight->part(args.expert, part) + static_cast<size_t>(unit) * part.panel_bytes;
  a.records = args.weight->plan.k / part.group;
  a.record_bytes = part.record_bytes;
  a.columns = static_cast<int>(std::min<int64_t>(kPanel, part.n - column));
  a.group = part.group;
  a.wide_scales = part.wide_scales;
  a.has_min = part.has_min;
  a.small_integers = part.dtype != DType::q8_0;
  a.k = args.weight->plan.k;
  a.m = m;
  a.x = block.x + row * args.x_stride;
  a.x_stride = args.x_stride;
  a.y = block.y + row * args.y_stride + part.n0 + column;
  a.y_stride = args.y_stride;
  a.bias = args.bias != nullptr ? args.bias + part.n0 + column : nullptr;
  const bool int4 = part.layout == Layout::int4;
  if (args.activations == Activations::exact) {
    (int4 ? block.kernels.int4_exact : block.kernels.int8_exact)(&a);
  } else {
    a.rows = row_quant_from(block.rows, row);
    (int4 ? block.kernels.int4 : block.kernels.int8)(&a);
  }
}

// Units [first, last) counted over all parts; int8 rows in pieces that stay in L2 while the units pass over
// them. Exact kernels cut along k as well, and see to it themselves.
void run_units(const Block& block, int64_t first, int64_t last) {
  const PackPlan& plan = block.args.weight->plan;
  int64_t before = 0;
  for (const PackedPart& part : plan.parts) {
    const int64_t units = units_of(part);
    const int64_t from = std::max<int64_t>(first - before, 0), to = std::min(last - before, units);
    before += units;
    if (from >= to) continue;
    const int64_t piece = is_quantized(part, block.args.activations)
                              ? std::max<int64_t>(12, kRowBytesInCache / plan.k / 12 * 12)
                              : block.m;
    for (int64_t row = 0; row < block.m; row += piece) {
      const int64_t m = std::min(piece, block.m - row);
      for (int64_t unit = from; unit < to; ++unit)
        (part.layout == Layout::stored ? run_stored : run_panel)(block, part, unit, row, m);
    }
  }
}

void quantize_block(const Block& block, int threads) {
  const MatmulArgs& args = block.args;
  constexpr int64_t kElementsAChunk = 1 << 16;
  const int64_t rows_a_chunk = std::max<int64_t>(1, kElementsAChunk / args.weight->plan.k);
  const int64_t chunks = (block.m + rows_a_chunk - 1) / rows_a_chunk;
  Pool::instance().run(static_cast<int>(chunks), threads, [&](int chunk) {
    const int64_t row = chunk * rows_a_chunk;
    const RowQuantView rows = row_quant_from(block.rows, row);
    block.kernels.quantize_rows(block.x + row * args.x_stride, args.x_stride,
                                std::min(rows_a_chunk, block.m - row), &rows);
  });
}

void copy_pieces(const Block& block, int threads) {
  const MatmulArgs& args = block.args;
  constexpr int64_t kRowsAChunk = 32;
  const int64_t k = args.weight->plan.k, chunks = (block.m + kRowsAChunk - 1) / kRowsAChunk;
  Pool::instance().run(static_cast<int>(chunks), threads, [&](int chunk) {
    const int64_t end = std::min(block.m, (chunk + 1) * kRowsAChunk);
    for (int64_t row = chunk * kRowsAChunk; row < end; ++row) {
      for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        const float* x = block.x + row * args.x_stride + k0;
        const int64_t count = std::min<int64_t>(kDepth, k - k0);
        for (int64_t j = 0; j < kClasses; ++j) {
          float* to = block.pieces + ((k0 / kDepth * kClasses + j) * block.m + row) * kClassStride;
          for (int64_t i = j; i < count; i += kClasses) *to++ = x[i];
        }
      }
    }
  });
}

int chunk_count(const PackPlan& plan, int64_t m, int64_t units, int threads) {
  const double seconds =
      std::max(2.0 * static_cast<double>(plan.n * plan.k) * static_cast<double>(m) / kFlopRate,
               static_cast<double>(plan.expert_bytes) / kByteRate);
  const auto useful = static_cast<int64_t>(seconds / kChunkSeconds);
  return static_cast<int>(std::clamp<int64_t>(std::min<int64_t>(useful, 4 * int64_t{threads}), 1, units));
}

void check(const MatmulArgs& args, size_t scratch_bytes) {
  const auto fail = [](const char* operand, const std::string& expected, const std::string& got) {
    throw Error(Code::internal, std::string("matmul ") + operand, expected, got);
  };
  const PackPlan& plan = args.weight->plan;
  if (args.expert < 0 || args.expert >= plan.experts)
    fail("expert", "below " + std::to_string(plan.experts), std::to_string(args.expert));
  if (args.m > 1 && args.x_stride < plan.k)
    fail("x_stride", std::to_string(plan.k), std::to_string(args.x_stride));
  if (args.m > 1 && args.y_stride < plan.n)
    fail("y_stride", std::to_string(plan.n), std::to_string(args.y_stride));
  if (!args.scratch.empty() && args.scratch.size() < scratch_bytes)
    fail("scratch", std::to_string(scratch_bytes) + " bytes", std::to_string(args.scratch.size()));
}

// Scratch memory of a call that was given none.
class OwnScratch {
 public:
  explicit OwnScratch(size_t bytes) : data_(bytes == 0 ? nullptr : std::malloc(bytes)) {
    if (bytes != 0 && data_ == nullptr)
      throw Error(Code::out_of_memory, "matmul scratch", "memory", std::to_string(bytes) + " bytes refused");
  }
  ~OwnScratch() { std::free(data_); }
  OwnScratch(const OwnScratch&) = delete;
  OwnScratch& operator=(const OwnScratch&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_;
};

std::byte* align(std::byte* at) {
  const auto address = reinterpret_cast<uintptr_t>(at);
  return at + (kAlignment - address % kAlignment) % kAlignment;
}

}  // namespace

size_t matmul_scratch_bytes(const PackPlan& plan, int64_t m, Activations activations) {
  if (m <= 0) return 0;
  const int64_t rows = std::min(m, kRowBlock);
  size_t bytes = 0;
  if (needs_quantized_rows(plan, activations)) bytes += row_quant_bytes(rows, plan.k);
  if (needs_pieces(plan, m, activations))
    bytes += static_cast<size_t>(rows * ((plan.k + kDepth - 1) / kDepth) * kClasses * kClassStride) *
             sizeof(float);
  return bytes == 0 ? 0 : bytes + kAlignment;
}

void matmul(const MatmulArgs& args) {
  if (args.m <= 0) return;
  const PackPlan& plan = args.weight->plan;
  const size_t scratch_bytes = matmul_scratch_bytes(plan, args.m, args.activations);
  check(args, scratch_bytes);
  const bool quantize = needs_quantized_rows(plan, args.activations);
  const OwnScratch own(args.scratch.empty() ? scratch_bytes : 0);
  std::byte* const scratch = align(args.scratch.empty() ? own.data() : args.scratch.data());
  const int threads = Pool::instance().threads_for(args.threads);
  int64_t units = 0;
  for (const PackedPart& part : plan.parts) units += units_of(part);

  for (int64_t row = 0; row < args.m; row += kRowBlock) {
    const int64_t m = std::min(kRowBlock, args.m - row);
    Block block{
        args, kKernels.active(), {}, nullptr, args.x + row * args.x_stride, args.y + row * args.y_stride, m};
    if (quantize) {
      block.rows = row_quant_view(scratch, m, plan.k);
      quantize_block(block, threads);
    }
    if (needs_pieces(plan, m, args.activations)) {
      block.pieces = reinterpret_cast<float*>(scratch + (quantize ? row_quant_bytes(m, plan.k) : 0));
      copy_pieces(block, threads);
    }
    const int chunks = chunk_count(plan, m, units, threads);
    Pool::instance().run(chunks, threads, [&](int chunk) {
      run_units(block, units * chunk / chunks, units * (chunk + 1) / chunks);
    });
  }
}

void gather_rows(const PackedMatrix& weight, int64_t expert, std::span<const int32_t> ids, float* out,
                 int64_t out_stride) {
  for (const int32_t id : ids) {
    unpack_row(weight, expert, id, out);
    out += out_stride;
  }
}

}  // namespace crosscurrent::cpu
