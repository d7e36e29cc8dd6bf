#include "safetensors.h"

#include <algorithm>
#include <tuple>

#include "../error.h"
#include "json.h"
#include "sizes.h"
#include "text.h"

namespace crosscurrent {

namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // as the reference implementation
constexpr size_t kMaxRank = 8;

uint64_t u64_le(const std::byte* p) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<uint64_t>(p[i]);
  return value;
}

DType dtype_of(const std::string& name, const std::string& operand) {
  constexpr std::pair<std::string_view, DType> kNames[] = {
      {"F32", DType::f32}, {"F16", DType::f16}, {"BF16", DType::bf16},
      {"F64", DType::f64}, {"I64", DType::i64}, {"I32", DType::i32},
      {"I8", DType::i8},   {"U8", DType::u8},   {"BOOL", DType::u8},
  };
  for (const auto& [text, dtype] : kNames) {
    if (text == name) return dtype;
  }
  throw Error(Code::unsupported_format, operand + ": dtype", "F32, F16, BF16, F64, I64, I32, I8, U8 or BOOL",
              printable(name));
}

// One entry of the header; its data offsets, relative to the data part, are left in offset and bytes (= end).
TensorEntry parse_entry(JsonReader& json, const std::string& name, const std::string& operand) {
  TensorEntry entry;
  entry.name = name;
  std::string dtype;
  std::vector<uint64_t> offsets;
  bool has_dtype = false, has_shape = false, has_offsets = false;
  json.object([&](const std::string& key) {
    if (key == "dtype") {
      has_dtype = true;
      dtype = json.string();
    } else if (key == "shape") {
      has_shape = true;
      json.array([&] {
        const uint64_t dim = json.unsigned_integer();
        if (dim > INT64_MAX)
          throw Error(Code::invalid_file, operand + ": shape", "dimensions below 2^63",
                      "an overflow: " + std::to_string(dim));
        if (entry.shape.size() == kMaxRank)
          throw Error(Code::invalid_file, operand + ": shape", "at most 8 dimensions", "more");
        entry.shape.push_back(static_cast<int64_t>(dim));
      });
    } else if (key == "data_offsets") {
      has_offsets = true;
      json.array([&] {
        offsets.push_back(json.unsigned_integer());
        if (offsets.size() > 2)
          throw Error(Code::invalid_file, operand + ": data_offsets", "[begin, end]", "more than 2 numbers");
      });
    } else {
      json.skip();
    }
  });
  const auto require = [&](bool has, const char* key) {
    if (!has)
      throw Error(Code::invalid_file, operand, std::string("'") + key + "' in its header entry", "none");
  };
  require(has_dtype, "dtype");
  require(has_shape, "shape");
  require(has_offsets, "data_offsets");
  entry.dtype = dtype_of(dtype, operand);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    std::string got = "[";
    for (const uint64_t offset : offsets) got += (got.size() > 1 ? ", " : "") + std::to_string(offset);
    throw Error(Code::invalid_file, operand + ": data_offsets", "[begin, end] with begin <= end", got + "]");
  }
  const auto bytes = tensor_bytes(entry.dtype, entry.shape);
  if (!bytes) {
    throw Error(Code::invalid_file, operand + ": shape", "a size below 2^63 bytes",
                shape_text(entry.shape) + ", an overflow");
  }
  if (*bytes != offsets[1] - offsets[0]) {
    throw Error(Code::invalid_file, operand + ": data_offsets",
                std::to_string(*bytes) + " bytes for " + dtype + " " + shape_text(entry.shape),
                std::to_string(offsets[1] - offsets[0]) + " bytes");
  }
  entry.offset = offsets[0];
  entry.bytes = *bytes;
  return entry;
}

// Entries are sorted by offset and must cover the data part exactly once.
void check_coverage(const std::vector<TensorEntry>& tensors, uint64_t data_bytes, const std::string& path) {
  uint64_t covered = 0;
  for (const TensorEntry& t : tensors) {
    const std::string operand = path + ": tensor '" + printable(t.name) + "'";
    const uint64_t end = t.offset + t.bytes;  // no overflow: both are below 2^63
    if (end > data_bytes) {
      throw Error(Code::invalid_file, operand + ": data_offsets",
                  "an end within the " + std::to_string(data_bytes) + " bytes of data",
                  std::to_string(end) + " (the file is truncated, or the offset is wrong)");
    }
    if (t.offset != covered) {
      throw Error(Code::invalid_file, operand + ": data_offsets",
                  "offset " + std::to_string(covered) + ", where the tensor before ends",
                  "offset " + std::to_string(t.offset) + (t.offset < covered ? ", an overlap" : ", a hole"));
    }
    covered = end;
  }
  if (covered != data_bytes) {
    throw Error(Code::invalid_file, path + ": data",
                "the last tensor to end at offset " + std::to_string(data_bytes) + ", where the file ends",
                "an end at offset " + std::to_string(covered));
  }
}

}  // namespace

SafetensorsHeader parse_safetensors(FileImage& image) {
  const std::string& path = image.path();
  if (image.size() < 8) {
    throw Error(Code::invalid_file, path, "a safetensors file (8 bytes of header length, then the header)",
                std::to_string(image.size()) + " bytes");
  }
  const uint64_t length = u64_le(image.load_prefix(8));
  if (length > kMaxHeaderBytes || length > image.size() - 8) {
    throw Error(Code::invalid_file, path + ": header length",
                "at most " + std::to_string(std::min(kMaxHeaderBytes, image.size() - 8)) + " bytes",
                std::to_string(length));
  }
  const uint64_t data_begin = 8 + length;
  const std::string operand = path + ": header";
  JsonReader json({reinterpret_cast<const char*>(image.load_prefix(data_begin)) + 8, length}, operand);

  SafetensorsHeader header;
  json.object([&](const std::string& key) {
    if (key != "__metadata__") {
      header.tensors.push_back(parse_entry(json, key, path + ": tensor '" + printable(key) + "'"));
    } else if (json.peek() == 'n') {
      json.skip();  // null, as some writers leave it
    } else {
      json.object([&](const std::string& name) { header.metadata.emplace_back(name, json.string()); });
    }
  });
  json.end();

  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    return std::tie(a.offset, a.bytes, a.name) < std::tie(b.offset, b.bytes, b.name);
  });
  check_coverage(header.tensors, image.size() - data_begin, path);
  for (TensorEntry& t : header.tensors) t.offset += data_begin;
  return header;
}

std::vector<std::pair<std::string, std::string>> parse_safetensors_index(std::string_view text,
                                                                         const std::string& path) {
  JsonReader json(text, path);
  std::vector<std::pair<std::string, std::string>> map;
  bool has_map = false;
  json.object([&](const std::string& key) {
    if (key != "weight_map") return json.skip();
    has_map = true;
    json.object([&](const std::string& name) {
      const std::string shard = json.string();
      const bool is_plain = !shard.empty() && shard != "." && shard != ".." &&
                            shard.find_first_of(std::string_view("/\\:\0", 4)) == std::string::npos;
      if (!is_plain) {
        throw Error(Code::invalid_file, path + ": weight_map: '" + printable(name) + "'",
                    "the name of a file beside the index",
                    "'" + printable(shard) + "', which lies outside the folder");
      }
      map.emplace_back(name, shard);
    });
  });
  json.end();
  if (!has_map) throw Error(Code::invalid_file, path, "'weight_map'", "none");
  if (map.empty()) throw Error(Code::invalid_file, path + ": weight_map", "tensors", "an empty object");
  return map;
}

}  // namespace crosscurrent
