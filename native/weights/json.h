// A strict pull reader for JSON headers: the caller walks the text, so a hostile header cannot make a tree
// many times its size. RFC 8259 with these limits: UTF-8 only, no duplicate keys in an object, nesting depth
// at most kMaxDepth.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_set>

namespace crosscurrent {

class JsonReader {
 public:
  static constexpr int kMaxDepth = 32;

  // `operand` names the text in errors: "model.safetensors: header".
  JsonReader(std::string_view text, std::string operand) : text_(text), operand_(std::move(operand)) {}

  // Calls visit(key) for every member; visit must consume exactly one value.
  template <class Visit>
  void object(Visit visit) {
    open('{');
    std::unordered_set<std::string> keys;
    for (bool first = true; next('}', first); first = false) {
      std::string key = string();
      expect(':');
      if (!keys.insert(key).second) duplicate(key);
      visit(key);
    }
  }

  // Calls visit() before every element; visit must consume exactly one value.
  template <class Visit>
  void array(Visit visit) {
    open('[');
    for (bool first = true; next(']', first); first = false) visit();
  }

  std::string string();
  uint64_t unsigned_integer();  // errors on a sign, a fraction, an exponent, or above 2^64 - 1
  void skip();                  // any value, checked like the others
  void end();                   // only white space may follow

  char peek();  // first character of the next token; 0 at the end
  size_t position() const { return at_; }

 private:
  void open(char bracket);
  bool next(char closing, bool first);
  void expect(char c);
  void number();
  void word(std::string_view literal);
  void escape(std::string& out);
  uint32_t hex4();
  [[noreturn]] void fail(const std::string& expected);
  [[noreturn]] void duplicate(const std::string& key);

  std::string_view text_;
  std::string operand_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace crosscurrent
