#include "check.h"

#include <algorithm>

#include "../error.h"

namespace crosscurrent {
namespace {

constexpr size_t kShown = 20;

std::string show(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// The product of all axes but the last; -1 where an axis is not positive or the product leaves int64.
int64_t rows_of(const std::vector<int64_t>& shape) {
  int64_t rows = 1;
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 1 || shape[i] > (int64_t{1} << 40)) return -1;
    if (i + 1 < shape.size() && (rows *= shape[i]) > (int64_t{1} << 40)) return -1;
  }
  return rows;
}

bool is_float(DType dtype) { return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

void check_part(const TensorStore& store, const WeightSpec& spec, const WeightPart& part, int64_t width,
                std::vector<std::string>& faults) {
  const TensorEntry* entry = store.find(part.tensor);
  if (entry == nullptr) return void(faults.push_back(part.tensor + " " + show(part.shape) + " is missing"));
  if (entry->shape != part.shape)
    return void(
        faults.push_back(part.tensor + ": expected " + show(part.shape) + ", got " + show(entry->shape)));
  const bool block = dtype_info(entry->dtype).block_elements > 1;
  if (!is_float(entry->dtype) && !block)
    return void(faults.push_back(part.tensor + ": expected a float or quantised type, got " +
                                 std::string(dtype_info(entry->dtype).name)));
  const int64_t rows = rows_of(part.shape);
  if (part.first_row < 0 || part.end_row > rows || part.first_row >= part.end_row)
    faults.push_back(part.tensor + ": expected rows within 0.." + std::to_string(rows) + ", got " +
                     std::to_string(part.first_row) + ".." + std::to_string(part.end_row));
  if (spec.form == WeightForm::matrix && part.shape.back() != width)
    faults.push_back(part.tensor + ": expected " + std::to_string(width) + " columns, got " +
                     show(part.shape));
}

void check_spec(const TensorStore& store, const WeightSpec& spec, const Buffer& buffer,
                std::vector<std::string>& faults) {
  std::vector<int64_t> wanted{buffer.times};
  for (int axis = 1; axis < buffer.rank; ++axis) wanted.push_back(buffer.inner[axis - 1]);
  if (spec.shape != wanted || static_cast<WeightForm>(buffer.detail) != spec.form)
    return void(faults.push_back(spec.name + ": expected " + show(wanted) + " as in the program, got " +
                                 show(spec.shape)));
  int64_t elements = rows_of(spec.shape) * spec.shape.back();
  if (!spec.values.empty()) {
    if (spec.form != WeightForm::f32 || elements != static_cast<int64_t>(spec.values.size()))
      faults.push_back(spec.name + ": expected " + std::to_string(elements) + " values, got " +
                       std::to_string(spec.values.size()));
    return;
  }
  const size_t before = faults.size();
  for (const WeightPart& part : spec.parts) {
    if (part.shape.empty() || rows_of(part.shape) < 0) {
      faults.push_back(part.tensor + ": expected a shape, got " + show(part.shape));
      continue;
    }
    check_part(store, spec, part, spec.shape.back(), faults);
    elements -= (part.end_row - part.first_row) * part.shape.back();
  }
  if (faults.size() == before && elements != 0)
    faults.push_back(spec.name + ": expected parts that fill " + show(spec.shape) + ", got " +
                     std::to_string(std::abs(elements)) +
                     (elements > 0 ? " elements too few" : " elements too many"));
}

}  // namespace

void check_weights(const TensorStore& store, const Program& program, const std::vector<WeightSpec>& specs) {
  if (specs.size() != program.weights.size())
    throw Error(Code::invalid_program, "weights", std::to_string(program.weights.size()),
                std::to_string(specs.size()));
  std::vector<std::string> faults;
  for (size_t i = 0; i < specs.size(); ++i)
    if (program.weights[i].rank > 0) check_spec(store, specs[i], program.weights[i], faults);
  if (faults.empty()) return;
  std::string text = std::to_string(faults.size()) + (faults.size() == 1 ? " tensor is" : " tensors are") +
                     " missing or misshapen: ";
  for (size_t i = 0; i < std::min(faults.size(), kShown); ++i) text += (i > 0 ? "; " : "") + faults[i];
  if (faults.size() > kShown) text += "; and " + std::to_string(faults.size() - kShown) + " more";
  throw Error(Code::missing_tensors, text);
}

}  // namespace crosscurrent
