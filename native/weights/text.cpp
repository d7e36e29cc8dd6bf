#include "text.h"

#include <cstdint>

namespace crosscurrent {

namespace {

constexpr char kHex[] = "0123456789abcdef";

void append_printable(std::string& out, std::string_view text) {
  while (!text.empty()) {
    const size_t n = utf8_sequence(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (n == 0 || first < 0x20 || first == 0x7f) {
      out += "\\x";
      out += kHex[first >> 4];
      out += kHex[first & 15];
      text.remove_prefix(1);
    } else {
      out += text.substr(0, n);
      text.remove_prefix(n);
    }
  }
}

}  // namespace

size_t utf8_sequence(std::string_view text) {
  if (text.empty()) return 0;
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;

  size_t length = 0;
  uint32_t point = 0, smallest = 0;
  if ((first & 0xe0) == 0xc0) {
    length = 2, point = first & 0x1f, smallest = 0x80;
  } else if ((first & 0xf0) == 0xe0) {
    length = 3, point = first & 0x0f, smallest = 0x800;
  } else if ((first & 0xf8) == 0xf0) {
    length = 4, point = first & 0x07, smallest = 0x10000;
  }
  if (length == 0 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    point = point << 6 | (byte(i) & 0x3f);
  }
  const bool is_surrogate = point >= 0xd800 && point < 0xe000;
  return point < smallest || point > 0x10ffff || is_surrogate ? 0 : length;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const size_t n = utf8_sequence(text);
    if (n == 0) return false;
    text.remove_prefix(n);
  }
  return true;
}

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 160, kKept = 72;
  std::string out;
  if (text.size() <= kLongest) {
    append_printable(out, text);
  } else {
    append_printable(out, text.substr(0, kKept));
    out += "...";
    append_printable(out, text.substr(text.size() - kKept));
    out += " (" + std::to_string(text.size()) + " bytes)";
  }
  return out;
}

void append_json_string(std::string& json, std::string_view text) {
  json += '"';
  while (!text.empty()) {
    const size_t n = utf8_sequence(text);
    const auto first = static_cast<unsigned char>(text[0]);
    if (n == 0) {
      json += "\xef\xbf\xbd";
    } else if (first < 0x20) {
      json += "\\u00";
      json += kHex[first >> 4];
      json += kHex[first & 15];
    } else {
      if (first == '"' || first == '\\') json += '\\';
      json += text.substr(0, n);
    }
    text.remove_prefix(n == 0 ? 1 : n);
  }
  json += '"';
}

}  // namespace crosscurrent
