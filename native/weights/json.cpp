#include "json.h"

#include "../error.h"
#include "text.h"

namespace crosscurrent {

namespace {

bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

void append_utf8(std::string& out, uint32_t point) {
  const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
  if (point < 0x80) {
    put(point);
  } else if (point < 0x800) {
    put(0xc0 | point >> 6), put(0x80 | (point & 63));
  } else if (point < 0x10000) {
    put(0xe0 | point >> 12), put(0x80 | (point >> 6 & 63)), put(0x80 | (point & 63));
  } else {
    put(0xf0 | point >> 18), put(0x80 | (point >> 12 & 63)), put(0x80 | (point >> 6 & 63)),
        put(0x80 | (point & 63));
  }
}

}  // namespace

void JsonReader::fail(const std::string& expected) {
  std::string got = "the end of the text";
  if (at_ < text_.size()) got = "'" + printable(text_.substr(at_, 16)) + "'";
  throw Error(Code::invalid_file, operand_, "valid JSON: " + expected,
              got + " at byte " + std::to_string(at_));
}

void JsonReader::duplicate(const std::string& key) {
  throw Error(Code::invalid_file, operand_, "each key once", "duplicate key '" + printable(key) + "'");
}

char JsonReader::peek() {
  while (at_ < text_.size() && is_space(text_[at_])) ++at_;
  return at_ < text_.size() ? text_[at_] : '\0';
}

void JsonReader::expect(char c) {
  if (peek() != c || at_ == text_.size()) fail(std::string("'") + c + "'");
  ++at_;
}

void JsonReader::open(char bracket) {
  expect(bracket);
  if (++depth_ > kMaxDepth) fail("at most " + std::to_string(kMaxDepth) + " nested objects and arrays");
}

bool JsonReader::next(char closing, bool first) {
  if (peek() == closing) {
    ++at_;
    --depth_;
    return false;
  }
  if (!first) {
    if (peek() != ',') fail(std::string("',' or '") + closing + "'");
    ++at_;
  }
  return true;
}

uint32_t JsonReader::hex4() {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i, ++at_) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    const char lower = static_cast<char>(c | 0x20);
    if (is_digit(c)) {
      value = value << 4 | static_cast<uint32_t>(c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value = value << 4 | static_cast<uint32_t>(lower - 'a' + 10);
    } else {
      fail("4 hexadecimal digits");
    }
  }
  return value;
}

void JsonReader::escape(std::string& out) {
  constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char c = at_ < text_.size() ? text_[at_] : '\0';
  if (const size_t i = kLetters.find(c); c != '\0' && i != std::string_view::npos) {
    out += kMeanings[i];
    ++at_;
    return;
  }
  if (c != 'u') fail("an escape sequence");
  ++at_;
  uint32_t point = hex4();
  if (point >= 0xd800 && point < 0xdc00 && text_.substr(at_, 2) == "\\u") {
    at_ += 2;
    const uint32_t low = hex4();
    if (low < 0xdc00 || low > 0xdfff) fail("a low surrogate");
    point = 0x10000 + ((point - 0xd800) << 10) + (low - 0xdc00);
  } else if (point >= 0xd800 && point < 0xe000) {
    fail("a pair of surrogates");
  }
  append_utf8(out, point);
}

std::string JsonReader::string() {
  if (peek() != '"') fail("a string");
  ++at_;
  std::string out;
  while (true) {
    if (at_ >= text_.size()) fail("'\"'");
    const char c = text_[at_];
    if (c == '"') break;
    if (c == '\\') {
      ++at_;
      escape(out);
      continue;
    }
    const size_t n = utf8_sequence(text_.substr(at_));
    if (n == 0) fail("UTF-8");
    if (static_cast<unsigned char>(c) < 0x20) fail("no control characters in a string");
    out += text_.substr(at_, n);
    at_ += n;
  }
  ++at_;
  return out;
}

uint64_t JsonReader::unsigned_integer() {
  if (!is_digit(peek())) fail("an integer >= 0");
  const size_t begin = at_;
  uint64_t value = 0;
  for (; at_ < text_.size() && is_digit(text_[at_]); ++at_) {
    const uint64_t digit = static_cast<uint64_t>(text_[at_] - '0');
    if (value > (UINT64_MAX - digit) / 10) {
      at_ = begin;
      fail("an integer that does not overflow 64 bits");
    }
    value = value * 10 + digit;
  }
  const char c = at_ < text_.size() ? text_[at_] : ' ';
  if (c == '.' || c == 'e' || c == 'E' || (text_[begin] == '0' && at_ - begin > 1)) {
    at_ = begin;
    fail("an integer");
  }
  return value;
}

void JsonReader::number() {
  const auto digits = [&] {
    if (at_ >= text_.size() || !is_digit(text_[at_])) fail("a digit");
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  };
  const auto at_any = [&](std::string_view set) {
    return at_ < text_.size() && set.find(text_[at_]) != set.npos;
  };
  if (at_any("-")) ++at_;
  const bool leading_zero = at_any("0");
  if (leading_zero) {
    ++at_;
  } else {
    digits();
  }
  if (at_any(".")) ++at_, digits();
  if (at_any("eE")) {
    ++at_;
    if (at_any("+-")) ++at_;
    digits();
  }
}

void JsonReader::word(std::string_view literal) {
  if (text_.substr(at_, literal.size()) != literal) fail("a value");
  at_ += literal.size();
}

void JsonReader::skip() {
  switch (peek()) {
    case '{': return object([&](const std::string&) { skip(); });
    case '[': return array([&] { skip(); });
    case '"': string(); return;
    case 't': return word("true");
    case 'f': return word("false");
    case 'n': return word("null");
    default: break;
  }
  if (!is_digit(peek()) && peek() != '-') fail("a value");
  number();
}

void JsonReader::end() {
  peek();
  if (at_ < text_.size()) fail("nothing after the last value");
}

}  // namespace crosscurrent
