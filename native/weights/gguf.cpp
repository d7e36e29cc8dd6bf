#include "gguf.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "../error.h"
#include "gguf_types.h"
#include "sizes.h"
#include "text.h"

namespace crosscurrent {

namespace {

constexpr uint64_t kMaxHeaderBytes = uint64_t{256} << 20;  // ten times the largest vocabularies
constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxRank = 4;
// Of keys or tensors: an entry takes more memory than its bytes in the file.
constexpr uint64_t kMaxCount = 1'000'000;
constexpr uint64_t kMinValueBytes = 8 + 4 + 1;           // key length, type, smallest value
constexpr uint64_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;  // name length, rank, one dim, type, offset

// Reads forward through the header; nothing is taken before it is known to lie inside the file.
class Cursor {
 public:
  explicit Cursor(FileImage& image) : image_(image) {}

  uint64_t position() const { return at_; }
  uint64_t remaining() const { return image_.size() - at_; }
  const std::string& path() const { return image_.path(); }

  const char* take(uint64_t bytes, const std::string& what) {
    if (bytes > remaining()) {
      throw Error(Code::invalid_file, path() + ": " + what,
                  std::to_string(bytes) + " bytes at " + std::to_string(at_),
                  std::to_string(remaining()) +
                      " before the end of the file (it is truncated, or a length is wrong)");
    }
    if (at_ + bytes > kMaxHeaderBytes) {
      throw Error(Code::invalid_file, path() + ": " + what,
                  "at most " + std::to_string(kMaxHeaderBytes) + " bytes of metadata",
                  "a length that leads to byte " + std::to_string(at_ + bytes));
    }
    const char* data = reinterpret_cast<const char*>(image_.load_prefix(at_ + bytes)) + at_;
    at_ += bytes;
    return data;
  }

  template <class T>
  T number(const std::string& what) {
    return load_le<T>(take(sizeof(T), what));
  }

  std::string_view string(const std::string& what) {
    const uint64_t length = number<uint64_t>(what);
    if (length > remaining()) {
      throw Error(Code::invalid_file, path() + ": " + what + ": length",
                  "at most the " + std::to_string(remaining()) + " bytes that are left",
                  std::to_string(length));
    }
    return {take(length, what), length};
  }

  // A key or name, which must be UTF-8 because programs compare and print it.
  std::string_view name(const std::string& what) {
    const std::string_view text = string(what);
    if (!is_utf8(text)) throw Error(Code::invalid_file, path() + ": " + what, "UTF-8", printable(text));
    return text;
  }

 private:
  FileImage& image_;
  uint64_t at_ = 0;
};

GgufType value_type(Cursor& in, const std::string& what) {
  const auto type = in.number<uint32_t>(what);
  if (type > static_cast<uint32_t>(GgufType::f64)) {
    throw Error(Code::invalid_file, in.path() + ": " + what, "a value type from 0 to 12",
                std::to_string(type));
  }
  return static_cast<GgufType>(type);
}

void check_booleans(const char* data, uint64_t count, const std::string& operand) {
  for (uint64_t i = 0; i < count; ++i) {
    if (data[i] != 0 && data[i] != 1) {
      throw Error(Code::invalid_file, operand, "booleans of 0 or 1",
                  std::to_string(static_cast<unsigned char>(data[i])));
    }
  }
}

GgufValue parse_array(Cursor& in, const std::string& what, int depth) {
  if (depth > kMaxArrayDepth) {
    throw Error(Code::invalid_file, in.path() + ": " + what,
                "at most " + std::to_string(kMaxArrayDepth) + " nested arrays", "more");
  }
  const GgufType type = value_type(in, what);
  const auto count = in.number<uint64_t>(what);
  const auto bytes = checked_multiply(count, gguf_min_bytes(type));
  if (!bytes || *bytes > in.remaining()) {
    throw Error(Code::invalid_file, in.path() + ": " + what + ": array length",
                "at most the " + std::to_string(in.remaining() / gguf_min_bytes(type)) +
                    " elements that the file has room for",
                std::to_string(count));
  }
  const GgufValue value{type, true, count, in.take(0, what)};
  if (type == GgufType::string) {
    for (uint64_t i = 0; i < count; ++i) in.string(what);
  } else if (type == GgufType::array) {
    for (uint64_t i = 0; i < count; ++i) parse_array(in, what, depth + 1);
  } else {
    in.take(*bytes, what);
    if (type == GgufType::boolean) check_booleans(value.data, count, in.path() + ": " + what);
  }
  return value;
}

GgufValue parse_value(Cursor& in, const std::string& what) {
  const GgufType type = value_type(in, what);
  if (type == GgufType::array) return parse_array(in, what, 1);
  const GgufValue value{type, false, 1, in.take(0, what)};
  if (type == GgufType::string) {
    in.name(what);
  } else {
    in.take(gguf_min_bytes(type), what);
    if (type == GgufType::boolean) check_booleans(value.data, 1, in.path() + ": " + what);
  }
  return value;
}

void check_count(uint64_t count, uint64_t min_bytes, const Cursor& in, const char* what) {
  const uint64_t most = std::min(kMaxCount, in.remaining() / min_bytes);
  if (count <= most) return;
  throw Error(Code::invalid_file, in.path() + ": " + what,
              "at most " + std::to_string(most) + " in a file of this size", std::to_string(count));
}

void parse_values(Cursor& in, uint64_t count, GgufHeader& header) {
  for (uint64_t i = 0; i < count; ++i) {
    const std::string_view key = in.name("key " + std::to_string(i));
    const std::string what = "key '" + printable(key) + "'";
    if (!header.by_key.emplace(key, header.values.size()).second) {
      throw Error(Code::invalid_file, in.path() + ": " + what, "each key once", "a duplicate");
    }
    header.values.emplace_back(key, parse_value(in, what));
  }
}

uint64_t unsigned_value(const GgufHeader& header, std::string_view key, uint64_t fallback,
                        const std::string& path) {
  const GgufValue* value = header.find(key);
  if (value == nullptr) return fallback;
  if (!value->is_array) {
    if (value->type == GgufType::u16) return load_le<uint16_t>(value->data);
    if (value->type == GgufType::u32) return load_le<uint32_t>(value->data);
    if (value->type == GgufType::u64) return load_le<uint64_t>(value->data);
  }
  throw Error(Code::invalid_file, path + ": " + std::string(key), "a uint32",
              std::string(value->is_array ? "an array of " : "") + std::string(gguf_type_name(value->type)));
}

// offset is left relative to the data part
TensorEntry parse_tensor(Cursor& in, uint64_t index) {
  TensorEntry entry;
  entry.name = in.name("name of tensor " + std::to_string(index));
  const std::string what = "tensor '" + printable(entry.name) + "'", operand = in.path() + ": " + what;
  const auto rank = in.number<uint32_t>(what);
  if (rank < 1 || rank > kMaxRank) {
    throw Error(Code::invalid_file, operand, "1 to 4 dimensions", std::to_string(rank) + " dimensions");
  }
  for (uint32_t i = 0; i < rank; ++i) {
    const auto dim = in.number<uint64_t>(what);
    if (dim == 0 || dim > INT64_MAX) {
      throw Error(Code::invalid_file, operand + ": dimension " + std::to_string(i), "from 1 to 2^63 - 1",
                  std::to_string(dim));
    }
    entry.shape.insert(entry.shape.begin(), static_cast<int64_t>(dim));
  }
  const auto type = in.number<uint32_t>(what);
  const auto dtype = ggml_dtype(type);
  if (!dtype) {
    throw Error(Code::unsupported_format, operand + ": type",
                "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K", ggml_type_name(type));
  }
  entry.dtype = *dtype;
  const DTypeInfo info = dtype_info(*dtype);
  if (entry.shape.back() % info.block_elements != 0) {
    throw Error(Code::invalid_file, operand,
                "rows of a multiple of " + std::to_string(info.block_elements) + " elements, the block of " +
                    ggml_type_name(type),
                "rows of " + std::to_string(entry.shape.back()));
  }
  const auto bytes = tensor_bytes(entry.dtype, entry.shape);
  if (!bytes) {
    throw Error(Code::invalid_file, operand + ": dimensions", "a size below 2^63 bytes",
                shape_text(entry.shape) + ", an overflow");
  }
  entry.bytes = *bytes;
  entry.offset = in.number<uint64_t>(what);
  return entry;
}

// Turns the relative offsets into file offsets, sorted; gaps are allowed (padding), overlaps are not.
void place_tensors(std::vector<TensorEntry>& tensors, uint64_t data_begin, uint64_t alignment,
                   const FileImage& image) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorEntry& a, const TensorEntry& b) { return a.offset < b.offset; });
  const uint64_t data_bytes = image.size() > data_begin ? image.size() - data_begin : 0;
  uint64_t end = 0;
  const TensorEntry* before = nullptr;
  for (TensorEntry& t : tensors) {
    const std::string operand = image.path() + ": tensor '" + printable(t.name) + "': offset";
    if (t.offset % alignment != 0) {
      throw Error(Code::invalid_file, operand, "a multiple of the alignment " + std::to_string(alignment),
                  std::to_string(t.offset));
    }
    if (t.offset > data_bytes || t.bytes > data_bytes - t.offset) {
      throw Error(Code::invalid_file, operand,
                  std::to_string(t.bytes) + " bytes at " + std::to_string(t.offset) + " of the data part",
                  "a data part of " + std::to_string(data_bytes) +
                      " bytes (the file is truncated, or the offset is wrong)");
    }
    if (t.offset < end) {
      throw Error(Code::invalid_file, operand,
                  "at least " + std::to_string(end) + ", where '" + printable(before->name) + "' ends",
                  std::to_string(t.offset) + ", an overlap");
    }
    end = t.offset + t.bytes;
    before = &t;
    t.offset += data_begin;
  }
}

void check_magic_and_version(Cursor& in, GgufHeader& header) {
  const std::string_view magic(in.take(4, "magic"), 4);
  if (magic != "GGUF")
    throw Error(Code::invalid_file, in.path() + ": magic", "GGUF", "'" + printable(magic) + "'");
  header.version = in.number<uint32_t>("version");
  if (header.version == 2 || header.version == 3) return;
  const uint32_t v = header.version;
  const uint32_t swapped = v >> 24 | (v >> 8 & 0xff00) | (v << 8 & 0xff0000) | v << 24;
  if (swapped >= 1 && swapped < 256) {
    throw Error(Code::unsupported_format, in.path() + ": version", "a little-endian file",
                "version " + std::to_string(swapped) + " in big-endian order");
  }
  throw Error(Code::unsupported_format, in.path() + ": version", "2 or 3", std::to_string(v));
}

}  // namespace

const GgufValue* GgufHeader::find(std::string_view key) const {
  const auto it = by_key.find(key);
  return it == by_key.end() ? nullptr : &values[it->second].second;
}

GgufHeader parse_gguf(FileImage& image) {
  Cursor in(image);
  GgufHeader header;
  check_magic_and_version(in, header);
  const auto tensor_count = in.number<uint64_t>("tensor count");
  const auto value_count = in.number<uint64_t>("metadata count");
  check_count(tensor_count, kMinTensorBytes, in, "tensor count");
  check_count(value_count, kMinValueBytes, in, "metadata count");
  parse_values(in, value_count, header);

  const uint64_t alignment = unsigned_value(header, "general.alignment", 32, image.path());
  if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > (uint64_t{1} << 31)) {
    throw Error(Code::invalid_file, image.path() + ": general.alignment", "a power of two",
                std::to_string(alignment));
  }
  if (const uint64_t parts = unsigned_value(header, "split.count", 0, image.path()); parts > 1) {
    throw Error(Code::unsupported_format, image.path() + ": split.count",
                "a whole model in one file (merge the parts first)",
                "one of " + std::to_string(parts) + " parts");
  }

  std::unordered_set<std::string> names;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    header.tensors.push_back(parse_tensor(in, i));
    const std::string& name = header.tensors.back().name;
    if (!names.insert(name).second) {
      throw Error(Code::invalid_file, image.path() + ": tensor '" + printable(name) + "'", "each name once",
                  "a duplicate");
    }
  }
  const uint64_t data_begin = (in.position() + alignment - 1) / alignment * alignment;
  place_tensors(header.tensors, data_begin, alignment, image);
  return header;
}

}  // namespace crosscurrent
