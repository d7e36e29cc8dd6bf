// Small valid weight files, built byte by byte.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace crosscurrent::test {

// Fixtures beside the repository; tests of a bare clone skip what needs them.
inline std::filesystem::path shared_folder() {
  return std::filesystem::path(__FILE__).parent_path() / "../../../shared";
}

inline std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

class ByteWriter {
 public:
  template <class T>
  ByteWriter& number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  ByteWriter& string(std::string_view s) {
    number<uint64_t>(s.size());
    text_ += s;
    return *this;
  }
  ByteWriter& align(size_t alignment) {
    text_.resize((text_.size() + alignment - 1) / alignment * alignment);
    return *this;
  }
  ByteWriter& fill(size_t count) {
    for (size_t i = 0; i < count; ++i) text_ += static_cast<char>(i * 7 % 60);  // as floats: small and finite
    return *this;
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

struct GgufTensor {
  std::string name;
  std::vector<uint64_t> dims;  // fastest first
  uint32_t type;
  uint64_t offset, bytes;
};

// Header up to the data; `values` is the encoded key/values.
inline ByteWriter gguf_header(const std::vector<GgufTensor>& tensors, uint64_t value_count,
                              std::string_view values) {
  ByteWriter w;
  w.number<uint32_t>(std::bit_cast<uint32_t>(std::array{'G', 'G', 'U', 'F'})).number<uint32_t>(3);
  w.number<uint64_t>(tensors.size()).number<uint64_t>(value_count);
  for (const char c : values) w.number(c);
  for (const GgufTensor& t : tensors) {
    w.string(t.name).number<uint32_t>(static_cast<uint32_t>(t.dims.size()));
    for (const uint64_t dim : t.dims) w.number(dim);
    w.number(t.type).number(t.offset);
  }
  return w;
}

// Every value type, a nested array, an array too long for the JSON view, every tensor type that can be read.
// `has_long` is off where mutations should fall on the fields that matter.
inline std::string sample_gguf(bool has_long = true) {
  ByteWriter v;
  const auto key = [&](std::string_view name, uint32_t type) -> ByteWriter& {
    return v.string(name).number(type);
  };
  key("general.architecture", 8).string("sample");
  key("v.u8", 0).number<uint8_t>(200);
  key("v.i8", 1).number<int8_t>(-100);
  key("v.u16", 2).number<uint16_t>(60000);
  key("v.i16", 3).number<int16_t>(-30000);
  key("v.u32", 4).number<uint32_t>(4000000000);
  key("v.i32", 5).number<int32_t>(-2000000000);
  key("v.f32", 6).number<float>(1e-5f);
  key("v.bool", 7).number<uint8_t>(1);
  key("v.u64", 10).number<uint64_t>(UINT64_MAX);
  key("v.i64", 11).number<int64_t>(INT64_MIN);
  key("v.f64", 12).number<double>(0.1);
  key("v.nan", 6).number<uint32_t>(0x7fc00000);
  key("tokens", 9).number<uint32_t>(8).number<uint64_t>(3).string("a\"b").string("").string("\xff");
  key("scores", 9).number<uint32_t>(6).number<uint64_t>(2).number(1.5f).number(-2.0f);
  key("nested", 9).number<uint32_t>(9).number<uint64_t>(2);
  v.number<uint32_t>(4).number<uint64_t>(2).number<uint32_t>(1).number<uint32_t>(2);
  v.number<uint32_t>(8).number<uint64_t>(1).string("x");
  if (has_long) key("long", 9).number<uint32_t>(3).number<uint64_t>(1025).fill(2050);
  key("general.alignment", 4).number<uint32_t>(32);
  const uint64_t value_count = has_long ? 18 : 17;

  std::vector<GgufTensor> tensors = {
      {"f32", {3, 2}, 0, 0, 24},      {"f16", {4, 3, 2}, 1, 0, 48}, {"q4_0", {64, 2}, 2, 0, 72},
      {"q4_1", {32}, 3, 0, 20},       {"q5_0", {32, 2}, 6, 0, 44},  {"q5_1", {32, 1, 1, 2}, 7, 0, 48},
      {"q8_0", {32, 3}, 8, 0, 102},   {"q4_k", {256}, 12, 0, 144},  {"q5_k", {256}, 13, 0, 176},
      {"q6_k", {256, 2}, 14, 0, 420}, {"i8", {5}, 24, 0, 5},        {"bf16", {2, 2}, 30, 0, 8},
  };
  uint64_t end = 0;
  for (GgufTensor& t : tensors) {
    t.offset = (end + 31) / 32 * 32;
    end = t.offset + t.bytes;
  }
  return gguf_header(tensors, value_count, v.text()).align(32).fill(end).text();
}

inline std::string safetensors_file(std::string_view header, size_t data_bytes) {
  ByteWriter w;
  return w.string(header).fill(data_bytes).text();
}

inline std::string sample_safetensors() {
  return safetensors_file(
      R"({"__metadata__":{"format":"pt","note":"\u00e9\ud83d\ude00\n"},)"
      R"("b":{"dtype":"F16","shape":[2,3],"data_offsets":[16,28]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
      R"("empty":{"dtype":"I64","shape":[0,7],"data_offsets":[28,28]},"scalar":{"dtype":"F64","shape":[],"data_offsets":[28,36]},)"
      R"("c":{"dtype":"BF16","shape":[1],"data_offsets":[36,38]},"d":{"dtype":"BOOL","shape":[2],"data_offsets":[38,40]}}   )",
      40);
}

}  // namespace crosscurrent::test
