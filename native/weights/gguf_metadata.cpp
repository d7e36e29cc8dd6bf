// Reading checked GGUF values: types, scalars, arrays, and the JSON view of all metadata.
#include <charconv>
#include <cmath>

#include "gguf.h"
#include "gguf_types.h"
#include "text.h"

namespace crosscurrent {

namespace {

constexpr uint64_t kMaxJsonElements = 1024;

// Calls visit(T{}) with the C++ type of a number or boolean.
template <class Visit>
auto with_number(GgufType type, Visit visit) {
  switch (type) {
    case GgufType::u8: return visit(uint8_t{});
    case GgufType::i8: return visit(int8_t{});
    case GgufType::u16: return visit(uint16_t{});
    case GgufType::i16: return visit(int16_t{});
    case GgufType::u32: return visit(uint32_t{});
    case GgufType::i32: return visit(int32_t{});
    case GgufType::f32: return visit(float{});
    case GgufType::u64: return visit(uint64_t{});
    case GgufType::i64: return visit(int64_t{});
    case GgufType::f64: return visit(double{});
    case GgufType::boolean:
    case GgufType::string:
    case GgufType::array: break;
  }
  return visit(uint8_t{});  // a boolean is a byte of 0 or 1
}

std::string_view take_string(const char*& p) {
  const auto length = load_le<uint64_t>(p);
  const std::string_view text(p + 8, length);
  p += 8 + length;
  return text;
}

template <class T>
void append_number(std::string& json, T value) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) {
      json += "null";
      return;
    }
  }
  char buffer[32];
  const auto result =
      std::to_chars(buffer, buffer + sizeof buffer, value);  // floats: shortest form that reads back equal
  json.append(buffer, result.ptr);
}

void append_array(std::string& json, GgufType type, uint64_t count, const char*& p);

void append_element(std::string& json, GgufType type, const char*& p) {
  if (type == GgufType::string) {
    append_json_string(json, take_string(p));
  } else if (type == GgufType::array) {
    const auto inner = static_cast<GgufType>(load_le<uint32_t>(p));
    const auto count = load_le<uint64_t>(p + 4);
    p += 12;
    append_array(json, inner, count, p);
  } else if (type == GgufType::boolean) {
    json += *p++ != 0 ? "true" : "false";
  } else {
    with_number(type, [&]<class T>(T) {
      append_number(json, load_le<T>(p));
      p += sizeof(T);
    });
  }
}

void skip_element(GgufType type, const char*& p) {
  if (type == GgufType::string) {
    take_string(p);
  } else if (type == GgufType::array) {
    const auto inner = static_cast<GgufType>(load_le<uint32_t>(p));
    const auto count = load_le<uint64_t>(p + 4);
    p += 12;
    for (uint64_t i = 0; i < count; ++i) skip_element(inner, p);
  } else {
    p += gguf_min_bytes(type);
  }
}

void append_array(std::string& json, GgufType type, uint64_t count, const char*& p) {
  if (count > kMaxJsonElements) {
    json += "{\"type\": \"" + std::string(gguf_type_name(type)) + "\", \"length\": " + std::to_string(count) +
            "}";
    for (uint64_t i = 0; i < count; ++i) skip_element(type, p);
    return;
  }
  json += '[';
  for (uint64_t i = 0; i < count; ++i) {
    if (i > 0) json += ", ";
    append_element(json, type, p);
  }
  json += ']';
}

}  // namespace

std::string_view gguf_type_name(GgufType type) {
  constexpr std::string_view kNames[] = {"uint8", "int8",   "uint16", "int16",  "uint32", "int32",  "float32",
                                         "bool",  "string", "array",  "uint64", "int64",  "float64"};
  return kNames[static_cast<uint32_t>(type)];
}

std::string gguf_metadata_json(const GgufHeader& header) {
  std::string json = "{";
  for (const auto& [key, value] : header.values) {
    if (json.size() > 1) json += ", ";
    append_json_string(json, key);
    json += ": ";
    const char* p = value.data;
    if (value.is_array) {
      append_array(json, value.type, value.count, p);
    } else {
      append_element(json, value.type, p);
    }
  }
  return json + "}";
}

std::vector<std::string_view> gguf_strings(const GgufValue& value) {
  std::vector<std::string_view> strings(value.count);
  const char* p = value.data;
  for (auto& text : strings) text = take_string(p);
  return strings;
}

std::vector<double> gguf_numbers(const GgufValue& value) {
  std::vector<double> numbers(value.count);
  with_number(value.type, [&]<class T>(T) {
    for (uint64_t i = 0; i < value.count; ++i)
      numbers[i] = static_cast<double>(load_le<T>(value.data + i * sizeof(T)));
  });
  return numbers;
}

std::optional<DType> ggml_dtype(uint32_t type) {
  switch (type) {
    case 0: return DType::f32;
    case 1: return DType::f16;
    case 2: return DType::q4_0;
    case 3: return DType::q4_1;
    case 6: return DType::q5_0;
    case 7: return DType::q5_1;
    case 8: return DType::q8_0;
    case 12: return DType::q4_k;
    case 13: return DType::q5_k;
    case 14: return DType::q6_k;
    case 24: return DType::i8;
    case 26: return DType::i32;
    case 27: return DType::i64;
    case 28: return DType::f64;
    case 30: return DType::bf16;
    default: return std::nullopt;
  }
}

std::string ggml_type_name(uint32_t type) {
  // "" is a number that the format has retired
  constexpr std::string_view kNames[] = {
      "F32",    "F16",   "Q4_0",  "Q4_1",   "",      "",      "Q5_0",    "Q5_1",   "Q8_0",    "Q8_1",
      "Q2_K",   "Q3_K",  "Q4_K",  "Q5_K",   "Q6_K",  "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S",
      "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",    "I16",   "I32",     "I64",    "F64",     "IQ1_M",
      "BF16",   "",      "",      "",       "TQ1_0", "TQ2_0", "",        "",       "",        "MXFP4"};
  const std::string number = std::to_string(type);
  if (type >= std::size(kNames) || kNames[type].empty()) return "type " + number + ", which is not known";
  return std::string(kNames[type]) + " (type " + number + ")";
}

}  // namespace crosscurrent
