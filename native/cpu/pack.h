// Weights as the matmul kernels read them: packed once at load, the same bytes at every instruction-set
// level.
//
// A packed matrix is a stack of parts along n (q, k, v of one layer, or gate and up), each with its own
// dtype, times `experts`. Its memory is planned first (`plan_pack`), then taken, then filled row range by row
// range (`pack_rows`), so a file need not be mapped whole.
//
// Layouts of a part:
//   stored  rows as in the file; nothing is copied beyond the bytes themselves. Float types, and matrices
//   that are
//           also gathered by row (embedding = head).
//   int4    panels of 16 columns (rows of W). A panel is k / 32 records: 16 scales, 16 mins (none for q4_0,
//   whose zero
//           is 8), then 4 lines of 64 bytes: byte 4 c + i of line l holds column c, elements 8 l + i (low
//           nibble) and 8 l + 4 + i (high nibble) of the group.
//   int8    as int4 with one signed byte an element: 4 bytes of a column side by side, group / 4 lines a
//   record.
// Scales and mins are f16 where the file's are, f32 where they are products (K-quants): nothing is lost.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "../dtype.h"

namespace crosscurrent::cpu {

constexpr int kPanel = 16;      // columns side by side
constexpr int kGroup = 32;      // elements of k that share an activation scale
constexpr int kAlignment = 64;  // bytes, of every part and expert

enum class Layout : uint8_t { stored, int4, int8 };

struct PartShape {
  DType dtype;
  int64_t n;
};

struct PackOptions {
  int64_t experts = 1;
  bool keep_stored = false;  // `Layout::stored` for every part
};

struct PackedPart {
  DType dtype;
  Layout layout;
  bool wide_scales;  // f32 scales and mins, else f16
  bool has_min;
  int group;            // elements of k a weight scale
  int64_t n0, n;        // columns of y: n0 … n0 + n
  size_t offset;        // of the part inside an expert
  size_t record_bytes;  // one group of one panel; 0 when stored
  size_t panel_bytes;   // one panel: 16 columns; when stored 16 rows
  size_t row_bytes;     // one row as in the file
  size_t bytes;         // of the part, last panel padded unless stored
};

struct PackPlan {
  int64_t experts = 0, n = 0, k = 0;
  std::vector<PackedPart> parts;
  size_t expert_bytes = 0;
  size_t bytes = 0;  // what `PackedMatrix` needs
};

// Throws `Error` for a dtype that is no weight type, a k that its blocks do not divide, or sizes that
// overflow.
PackPlan plan_pack(std::span<const PartShape> parts, int64_t k, const PackOptions& options = {});

// A planned matrix and its bytes. Copies share the bytes.
struct PackedMatrix {
  PackPlan plan;
  std::shared_ptr<std::byte> memory;  // plan.bytes, aligned to `kAlignment`

  const std::byte* part(int64_t expert, const PackedPart& part) const {
    return memory.get() + static_cast<size_t>(expert) * plan.expert_bytes + part.offset;
  }
};

// Takes zeroed memory. Throws `Error` out_of_memory.
PackedMatrix allocate_packed(PackPlan plan);

// A stored matrix over bytes that live elsewhere (a mapped file): no copy. `owner` keeps them alive; data
// must be what `plan.bytes` of rows look like. Needs a plan of one stored part.
PackedMatrix view_stored(PackPlan plan, const std::byte* data, std::shared_ptr<const void> owner);

// The first `n` rows of a matrix that is no stack of experts, in the same memory.
PackedMatrix first_rows(const PackedMatrix& matrix, int64_t n);

// Writes rows [row, row + rows) of one part of one expert from their file bytes. Disjoint ranges may be
// packed by several threads at once.
void pack_rows(PackedMatrix& matrix, int64_t expert, size_t part, int64_t row, int64_t rows,
               const std::byte* source);

struct WeightView {
  DType dtype;
  int64_t n, k;
  const std::byte* data;  // rows side by side
};

// plan + allocate + pack in one go, one expert.
PackedMatrix pack(std::span<const WeightView> parts, const PackOptions& options = {});

// Integers, scales and mins that come apart instead of as blocks of a file: value = scale q + min, or without
// mins scale (q - 8) for int4, scale q for int8. int8 has neither mins nor wide scales.
struct ValuesFormat {
  bool is_int4, has_min, wide_scales;
};

// A plan of one part in groups of `kGroup`.
PackPlan plan_values(const ValuesFormat& format, int64_t experts, int64_t n, int64_t k);

// One row of such a part: q [k], scale and min [k / kGroup]. Scales must be f16 numbers unless wide.
void pack_values(PackedMatrix& matrix, int64_t expert, int64_t row, const int8_t* q, const float* scale,
                 const float* min);

// out[k] = row `row` (counted over the stacked parts) of an expert in f32, whatever the layout: embedding
// gather.
void unpack_row(const PackedMatrix& matrix, int64_t expert, int64_t row, float* out);

}  // namespace crosscurrent::cpu
