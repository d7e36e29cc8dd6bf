#include "weights.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "../error.h"
#include "../weights/check.h"
#include "../weights/dequantize.h"
#include "memory.h"
#include "pool.h"

namespace crosscurrent::cpu {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 18;  // of a read: stays in L2 between pread and packing

// Rows [row, end) of a part, which go to the weight's rows (of a matrix) or elements (f32) from `target` on.
struct Piece {
  const TensorEntry* entry;
  const WeightSpec* spec;
  CpuWeight* weight;
  size_t part;  // of the packed matrix
  int64_t row, end, target;
};

int64_t row_bytes(const TensorEntry& entry) {
  const DTypeInfo info = dtype_info(entry.dtype);
  return entry.shape.back() / info.block_elements * info.block_bytes;
}

// Rank 3 weights are stacks of experts [experts, n, k], which share one part.
PackPlan plan_matrix(const TensorStore& store, const WeightSpec& spec, bool gathered) {
  std::vector<PartShape> parts;
  PackOptions options;
  options.keep_stored = gathered;
  const bool is_stack = spec.shape.size() == 3;
  if (is_stack) options.experts = spec.shape[0];
  for (const WeightPart& part : spec.parts) {
    const DType dtype = store.at(part.tensor).dtype;
    if (!is_stack)
      parts.push_back({dtype, part.end_row - part.first_row});
    else if (parts.empty())
      parts.push_back({dtype, spec.shape[1]});
    else if (parts[0].dtype != dtype)
      throw Error(Code::unsupported_format, spec.name,
                  "experts of one type, " + std::string(dtype_info(parts[0].dtype).name),
                  std::string(dtype_info(dtype).name) + " in " + part.tensor);
  }
  return plan_pack(parts, spec.shape.back(), options);
}

void add_pieces(const TensorStore& store, const WeightSpec& spec, CpuWeight& weight,
                std::vector<Piece>& pieces) {
  int64_t target = 0;
  for (size_t i = 0; i < spec.parts.size(); ++i) {
    const WeightPart& part = spec.parts[i];
    const TensorEntry& entry = store.at(part.tensor);
    const bool is_stack = spec.shape.size() == 3;
    // parts of an f32 weight may differ in width
    const int64_t unit = spec.form == WeightForm::matrix ? 1 : entry.shape.back();
    // whole panels: no two pieces share one
    const int64_t step = std::max<int64_t>(kReadBytes / row_bytes(entry) / kPanel * kPanel, kPanel);
    for (int64_t row = part.first_row; row < part.end_row;) {
      int64_t end = std::min(row + step, part.end_row);
      const int64_t at = target + (row - part.first_row) * unit;
      if (is_stack) end = std::min(end, row + spec.shape[1] - at % spec.shape[1]);  // an expert at a time
      pieces.push_back({&entry, &spec, &weight, is_stack ? 0 : i, row, end, at});
      row = end;
    }
    target += (part.end_row - part.first_row) * unit;
  }
}

void load_piece(const TensorStore& store, const Piece& piece) {
  const int64_t bytes = row_bytes(*piece.entry), rows = piece.end - piece.row;
  std::vector<std::byte> buffer(static_cast<size_t>(bytes * rows));
  store.read(*piece.entry, static_cast<uint64_t>(piece.row * bytes), buffer);
  if (piece.spec->form == WeightForm::matrix) {
    const bool is_stack = piece.spec->shape.size() == 3;
    const int64_t n = piece.spec->shape[piece.spec->shape.size() - 2];
    const int64_t expert = is_stack ? piece.target / n : 0;
    const int64_t first = is_stack ? piece.target % n : piece.row - piece.spec->parts[piece.part].first_row;
    pack_rows(piece.weight->matrix, expert, piece.part, first, rows, buffer.data());
    return;
  }
  const int64_t width = piece.entry->shape.back();
  const std::span<float> out(piece.weight->values.data() + piece.target, static_cast<size_t>(rows * width));
  for (int64_t row = 0; row < rows; ++row)
    dequantize_row(piece.entry->dtype,
                   std::span<const std::byte>(buffer).subspan(static_cast<size_t>(row * bytes),
                                                              static_cast<size_t>(bytes)),
                   out.subspan(static_cast<size_t>(row * width), static_cast<size_t>(width)));
  if (piece.spec->neg_exp)
    for (float& value : out) value = static_cast<float>(-std::exp(static_cast<double>(value)));
}

}  // namespace

uint64_t CpuWeights::bytes() const {
  uint64_t total = 0;
  for (const CpuWeight& weight : list)
    total += weight.matrix.plan.bytes + weight.values.size() * sizeof(float);
  return total;
}

std::shared_ptr<CpuWeights> load_weights(const TensorStore& store, const Program& program,
                                         const std::vector<WeightSpec>& specs, const Progress& progress,
                                         Cancel cancel) {
  check_weights(store, program, specs);
  auto weights = std::make_shared<CpuWeights>();
  weights->list.resize(specs.size());
  weights->shapes = program.weights;
  weights->gathered = program.gathered;
  std::vector<PackPlan> plans(specs.size());
  uint64_t bytes = 0, source_bytes = 0;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (program.weights[i].rank == 0) continue;
    if (specs[i].form == WeightForm::matrix) plans[i] = plan_matrix(store, specs[i], program.gathered[i]);
    bytes += plans[i].bytes;
  }
  require_memory("weights", bytes);

  std::vector<Piece> pieces;
  for (size_t i = 0; i < specs.size(); ++i) {
    if (program.weights[i].rank == 0) continue;
    CpuWeight& weight = weights->list[i];
    if (!specs[i].values.empty()) {
      weight.values = specs[i].values;
      continue;
    }
    weight.dtype = store.at(specs[i].parts.at(0).tensor).dtype;
    if (specs[i].form == WeightForm::matrix) {
      weight.matrix = allocate_packed(std::move(plans[i]));
    } else {
      int64_t elements = 1;
      for (const int64_t dim : specs[i].shape) elements *= dim;
      weight.values.resize(static_cast<size_t>(elements));
    }
    add_pieces(store, specs[i], weight, pieces);
  }
  for (const Piece& piece : pieces)
    source_bytes += static_cast<uint64_t>((piece.end - piece.row) * row_bytes(*piece.entry));

  std::mutex progress_mutex;
  uint64_t done = 0;
  Pool::instance().run(static_cast<int>(pieces.size()), 0, [&](int chunk) {
    if (cancel.load(std::memory_order_relaxed)) throw Error(Code::aborted, "loading was cancelled");
    const Piece& piece = pieces[static_cast<size_t>(chunk)];
    load_piece(store, piece);
    const std::lock_guard lock(progress_mutex);
    done += static_cast<uint64_t>((piece.end - piece.row) * row_bytes(*piece.entry));
    if (progress) progress(done, source_bytes);
  });
  return weights;
}

}  // namespace crosscurrent::cpu
