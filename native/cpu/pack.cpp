#include "pack.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "../error.h"
#include "quant_blocks.h"

namespace crosscurrent::cpu {
namespace {

// Sizes that a file states are not trusted: far below overflow of any product formed here.
constexpr int64_t kMaxSide = int64_t{1} << 32;
constexpr size_t kMaxBytes = size_t{1} << 46;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

void size_panels(PackedPart& part, int64_t k) {
  const size_t scales = kPanel * (part.wide_scales ? 4 : 2) * (part.has_min ? 2 : 1);
  const size_t integers = static_cast<size_t>(kPanel * part.group) / (part.layout == Layout::int4 ? 2 : 1);
  part.record_bytes = scales + integers;
  part.panel_bytes = part.record_bytes * static_cast<size_t>(k / part.group);
  part.bytes = part.panel_bytes * static_cast<size_t>((part.n + kPanel - 1) / kPanel);
}

PackedPart plan_part(const PartShape& shape, int64_t k, bool keep_stored) {
  const DTypeInfo info = dtype_info(shape.dtype);
  const QuantTraits traits = quant_traits(shape.dtype);
  const bool is_float = shape.dtype == DType::f32 || shape.dtype == DType::f16 || shape.dtype == DType::bf16;
  if (!is_float && traits.group == 0)
    throw Error(Code::unsupported_format, "weight dtype", "a float or GGUF block type",
                std::string(info.name));
  if (shape.n <= 0 || shape.n > kMaxSide)
    throw Error(Code::invalid_argument, "weight n", "1 to 2^32", std::to_string(shape.n));
  if (k % info.block_elements != 0) {
    throw Error(Code::invalid_argument, "weight k",
                "a multiple of " + std::to_string(info.block_elements) + " for " + std::string(info.name),
                std::to_string(k));
  }
  PackedPart part{};
  part.dtype = shape.dtype;
  part.layout = is_float || keep_stored ? Layout::stored : traits.is_int4 ? Layout::int4 : Layout::int8;
  part.wide_scales = traits.wide_scales;
  part.has_min = traits.has_min;
  part.group = traits.group;
  part.n = shape.n;
  part.row_bytes = static_cast<size_t>(k / info.block_elements) * info.block_bytes;
  if (part.layout == Layout::stored) {
    part.panel_bytes = part.row_bytes * kPanel;
    part.bytes = part.row_bytes * static_cast<size_t>(shape.n);
  } else {
    size_panels(part, k);
  }
  return part;
}

PackedPart values_part(const ValuesFormat& format, int64_t n, int64_t k) {
  PackedPart part{};
  // the block type that the kernels read alike
  part.dtype = !format.is_int4       ? DType::q8_0
               : !format.has_min     ? DType::q4_0
               : !format.wide_scales ? DType::q4_1
                                     : DType::q4_k;
  part.layout = format.is_int4 ? Layout::int4 : Layout::int8;
  part.wide_scales = format.wide_scales;
  part.has_min = format.has_min;
  part.group = kGroup;
  part.n = n;
  size_panels(part, k);
  part.row_bytes = part.panel_bytes / kPanel;
  return part;
}

void store_scale(bool wide, std::byte* to, int column, float value) {
  if (wide) {
    std::memcpy(to + column * 4, &value, 4);
  } else {
    const uint16_t half = f32_to_f16_exact(value);
    std::memcpy(to + column * 2, &half, 2);
  }
}

float load_scale(bool wide, const std::byte* from, int column) {
  if (!wide) {
    uint16_t half;
    std::memcpy(&half, from + column * 2, 2);
    return f16_to_f32(half);
  }
  float value;
  std::memcpy(&value, from + column * 4, 4);
  return value;
}

// Where the integers of element i of a record lie: see pack.h.
size_t int4_byte(int i, int column) { return static_cast<size_t>(i / 8 * 64 + column * 4 + i % 4); }
size_t int8_byte(int i, int column) { return static_cast<size_t>(i / 4 * 64 + column * 4 + i % 4); }

size_t scale_bytes(const PackedPart& part) { return kPanel * (part.wide_scales ? 4 : 2); }

void pack_panel_row(const PackedPart& part, std::byte* panel, int column, int64_t k, const int8_t* q,
                    const float* scale, const float* min) {
  const int group = part.group;
  for (int64_t g = 0; g < k / group; ++g, panel += part.record_bytes, q += group) {
    store_scale(part.wide_scales, panel, column, scale[g]);
    std::byte* integers = panel + scale_bytes(part);
    if (part.has_min) {
      store_scale(part.wide_scales, integers, column, min[g]);
      integers += scale_bytes(part);
    }
    if (part.layout == Layout::int4) {
      for (int i = 0; i < group; i += 8) {
        for (int j = i; j < i + 4; ++j)
          integers[int4_byte(j, column)] = static_cast<std::byte>(q[j] | q[j + 4] << 4);
      }
    } else {
      for (int i = 0; i < group; i += 4) std::memcpy(integers + int8_byte(i, column), q + i, 4);
    }
  }
}

void unpack_panel_row(const PackedPart& part, const std::byte* panel, int column, int64_t k, float* out) {
  const int group = part.group;
  const bool int4 = part.layout == Layout::int4;
  const int zero = int4 && !part.has_min ? 8 : 0;
  for (int64_t g = 0; g < k / group; ++g, panel += part.record_bytes, out += group) {
    const float scale = load_scale(part.wide_scales, panel, column);
    const std::byte* integers = panel + scale_bytes(part);
    float min = 0;
    if (part.has_min) {
      min = load_scale(part.wide_scales, integers, column);
      integers += scale_bytes(part);
    }
    for (int i = 0; i < group; ++i) {
      int q;
      if (int4) {
        q = (static_cast<int>(integers[int4_byte(i, column)]) >> (i % 8 < 4 ? 0 : 4)) & 15;
      } else {
        q = static_cast<int8_t>(integers[int8_byte(i, column)]);
      }
      out[i] = scale * static_cast<float>(q - zero) + min;
    }
  }
}

}  // namespace

namespace {

PackPlan start_plan(int64_t experts, int64_t k) {
  if (k <= 0 || k > kMaxSide) throw Error(Code::invalid_argument, "weight k", "1 to 2^32", std::to_string(k));
  if (experts <= 0 || experts > kMaxSide)
    throw Error(Code::invalid_argument, "experts", "1 to 2^32", std::to_string(experts));
  PackPlan plan;
  plan.experts = experts;
  plan.k = k;
  return plan;
}

void add_part(PackPlan& plan, PackedPart part) {
  // A side is below 2^32 and a row of k at most 16 GiB, so only the products with n and experts can
  // overflow.
  const double estimate = static_cast<double>(part.row_bytes) * 2 * static_cast<double>(part.n + kPanel) *
                          static_cast<double>(plan.experts);
  if (estimate > static_cast<double>(kMaxBytes))
    throw Error(Code::out_of_memory, "packed weight", "at most 2^46 bytes", std::to_string(estimate));
  part.n0 = plan.n;
  part.offset = plan.expert_bytes;
  plan.n += part.n;
  plan.expert_bytes = round_up(plan.expert_bytes + part.bytes);
  if (plan.expert_bytes > kMaxBytes / static_cast<size_t>(plan.experts))
    throw Error(Code::out_of_memory, "packed weight", "at most 2^46 bytes", "more");
  plan.parts.push_back(part);
  plan.bytes = plan.expert_bytes * static_cast<size_t>(plan.experts);
}

}  // namespace

PackPlan plan_pack(std::span<const PartShape> parts, int64_t k, const PackOptions& options) {
  PackPlan plan = start_plan(options.experts, k);
  if (parts.empty()) throw Error(Code::invalid_argument, "weight parts", "at least one", "none");
  for (const PartShape& shape : parts) add_part(plan, plan_part(shape, k, options.keep_stored));
  // One part stored as in the file has no padding between experts: a mapped stack of experts is used in
  // place.
  if (plan.parts.size() == 1 && plan.parts[0].layout == Layout::stored)
    plan.expert_bytes = plan.parts[0].bytes;
  plan.bytes = plan.expert_bytes * static_cast<size_t>(options.experts);
  return plan;
}

PackPlan plan_values(const ValuesFormat& format, int64_t experts, int64_t n, int64_t k) {
  PackPlan plan = start_plan(experts, k);
  if (n <= 0 || n > kMaxSide) throw Error(Code::invalid_argument, "weight n", "1 to 2^32", std::to_string(n));
  if (k % kGroup != 0)
    throw Error(Code::invalid_argument, "weight k", "a multiple of " + std::to_string(kGroup),
                std::to_string(k));
  add_part(plan, values_part(format, n, k));
  return plan;
}

PackedMatrix allocate_packed(PackPlan plan) {
  // calloc gives fresh pages unwritten: padding columns cost nothing until touched. Aligned by hand for its
  // sake.
  void* raw = std::calloc(plan.bytes + kAlignment, 1);
  if (raw == nullptr)
    throw Error(Code::out_of_memory, "packed weight", "memory",
                std::to_string(plan.bytes) + " bytes refused");
  const auto address = reinterpret_cast<uintptr_t>(raw);
  auto* aligned = static_cast<std::byte*>(raw) + (kAlignment - address % kAlignment) % kAlignment;
  return {std::move(plan), std::shared_ptr<std::byte>(aligned, [raw](std::byte*) { std::free(raw); })};
}

PackedMatrix first_rows(const PackedMatrix& matrix, int64_t n) {
  PackedMatrix cut = matrix;
  cut.plan.n = n;
  std::erase_if(cut.plan.parts, [n](const PackedPart& part) { return part.n0 >= n; });
  PackedPart& last = cut.plan.parts.back();
  last.n = std::min(last.n, n - last.n0);
  return cut;
}

PackedMatrix view_stored(PackPlan plan, const std::byte* data, std::shared_ptr<const void> owner) {
  if (plan.parts.size() != 1 || plan.parts[0].layout != Layout::stored)
    throw Error(Code::internal, "view_stored: needs a plan of one stored part");
  // Never written: `pack_rows` is not for views.
  std::shared_ptr<std::byte> memory(const_cast<std::byte*>(data), [owner = std::move(owner)](std::byte*) {});
  return {std::move(plan), std::move(memory)};
}

void pack_rows(PackedMatrix& matrix, int64_t expert, size_t part_index, int64_t row, int64_t rows,
               const std::byte* source) {
  const PackPlan& plan = matrix.plan;
  if (part_index >= plan.parts.size() || expert < 0 || expert >= plan.experts || row < 0 || rows < 0 ||
      rows > plan.parts[part_index].n - row)
    throw Error(Code::internal, "pack_rows: range outside the plan");
  const PackedPart& part = plan.parts[part_index];
  std::byte* base = const_cast<std::byte*>(matrix.part(expert, part));
  if (part.layout == Layout::stored) {
    std::memcpy(base + static_cast<size_t>(row) * part.row_bytes, source,
                static_cast<size_t>(rows) * part.row_bytes);
    return;
  }
  const auto groups = static_cast<size_t>(plan.k / part.group);
  std::vector<int8_t> q(static_cast<size_t>(plan.k));
  std::vector<float> scale(groups), min(groups);
  for (int64_t r = row; r < row + rows; ++r, source += part.row_bytes) {
    split_row(part.dtype, source, plan.k, q.data(), scale.data(), min.data());
    pack_panel_row(part, base + static_cast<size_t>(r / kPanel) * part.panel_bytes,
                   static_cast<int>(r % kPanel), plan.k, q.data(), scale.data(), min.data());
  }
}

void pack_values(PackedMatrix& matrix, int64_t expert, int64_t row, const int8_t* q, const float* scale,
                 const float* min) {
  const PackedPart& part = matrix.plan.parts.at(0);
  std::byte* base = const_cast<std::byte*>(matrix.part(expert, part));
  pack_panel_row(part, base + static_cast<size_t>(row / kPanel) * part.panel_bytes,
                 static_cast<int>(row % kPanel), matrix.plan.k, q, scale, min);
}

PackedMatrix pack(std::span<const WeightView> parts, const PackOptions& options) {
  std::vector<PartShape> shapes;
  for (const WeightView& view : parts) {
    if (view.k != parts[0].k)
      throw Error(Code::invalid_argument, "weight k", std::to_string(parts[0].k), std::to_string(view.k));
    shapes.push_back({view.dtype, view.n});
  }
  PackedMatrix matrix = allocate_packed(plan_pack(shapes, parts.empty() ? 0 : parts[0].k, options));
  for (size_t i = 0; i < parts.size(); ++i) pack_rows(matrix, 0, i, 0, parts[i].n, parts[i].data);
  return matrix;
}

void unpack_row(const PackedMatrix& matrix, int64_t expert, int64_t row, float* out) {
  for (const PackedPart& part : matrix.plan.parts) {
    if (row >= part.n0 + part.n) continue;
    const auto r = static_cast<size_t>(row - part.n0);
    const std::byte* base = matrix.part(expert, part);
    if (part.layout == Layout::stored) {
      expand_row(part.dtype, base + r * part.row_bytes, matrix.plan.k, out);
    } else {
      unpack_panel_row(part, base + r / kPanel * part.panel_bytes, static_cast<int>(r % kPanel),
                       matrix.plan.k, out);
    }
    return;
  }
}

}  // namespace crosscurrent::cpu
