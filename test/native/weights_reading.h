// Uses all that a store offers.
#pragma once

#include <algorithm>
#include <vector>

#include "harness.h"
#include "native/weights/dequantize.h"
#include "native/weights/tensor_file.h"

namespace crosscurrent::test {

// Reads every byte of every tensor both ways, and every value.
inline void read_all(const TensorStore& store, bool is_finite = true) {
  (void)store.metadata_json();
  for (const TensorEntry& entry : store.tensors()) {
    std::vector<std::byte> copy(entry.bytes);
    store.read(entry, 0, copy);
    const auto mapped = store.map(entry);
    expect(mapped.size() == copy.size() && std::equal(copy.begin(), copy.end(), mapped.begin()),
           entry.name + ": read = map");
    if (!is_weight_dtype(entry.dtype)) continue;
    std::vector<float> values(static_cast<size_t>(entry.elements()));
    dequantize_row(entry.dtype, mapped, values);
    const auto finite = [](float v) { return v - v == 0; };
    expect(!is_finite || std::all_of(values.begin(), values.end(), finite), entry.name + ": finite");
  }
}

}  // namespace crosscurrent::test
