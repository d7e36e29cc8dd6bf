// GGUF version 2 and 3, little-endian: key/values, tensor infos (dims fastest first), then aligned data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "file_image.h"
#include "tensor_file.h"

namespace crosscurrent {

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

struct GgufValue {
  GgufType type;  // of the value; of the elements when is_array
  bool is_array;
  uint64_t count;    // elements; 1 for a scalar
  const char* data;  // first element, in the image: for strings and nested arrays with their length fields
};

struct GgufHeader {
  uint32_t version = 3;
  std::vector<std::pair<std::string_view, GgufValue>> values;  // in file order; views into the image
  std::unordered_map<std::string_view, size_t> by_key;
  std::vector<TensorEntry> tensors;  // by offset; offsets from the start of the file

  const GgufValue* find(std::string_view key) const;
};

// Everything that is read later through a GgufValue is checked here.
GgufHeader parse_gguf(FileImage& image);

// The name the format uses in its tools: "uint32", "string", …
std::string_view gguf_type_name(GgufType type);

std::string gguf_metadata_json(const GgufHeader& header);
std::vector<std::string_view> gguf_strings(const GgufValue& value);  // an array of strings
std::vector<double> gguf_numbers(const GgufValue& value);            // an array of numbers or booleans

}  // namespace crosscurrent
