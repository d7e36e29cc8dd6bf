// The one exception type of native code. The binding maps it to a JavaScript error with the same fields.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace crosscurrent {

// Stable codes; the same strings as `ErrorCode` in src/errors.ts (a test compares the two lists).
enum class Code : uint8_t {
  invalid_argument,
  invalid_file,
  unsupported_format,
  io,
  file_changed,
  missing_tensors,
  invalid_program,
  missing_kernel,
  invalid_state,
  token_out_of_range,
  context_overflow,
  out_of_memory,
  device_unavailable,
  disposed,
  aborted,
  internal,
};

constexpr std::string_view code_name(Code code) {
  constexpr std::string_view names[] = {
      "INVALID_ARGUMENT",
      "INVALID_FILE",
      "UNSUPPORTED_FORMAT",
      "IO",
      "FILE_CHANGED",
      "MISSING_TENSORS",
      "INVALID_PROGRAM",
      "MISSING_KERNEL",
      "INVALID_STATE",
      "TOKEN_OUT_OF_RANGE",
      "CONTEXT_OVERFLOW",
      "OUT_OF_MEMORY",
      "DEVICE_UNAVAILABLE",
      "DISPOSED",
      "ABORTED",
      "INTERNAL",
  };
  return names[static_cast<int>(code)];
}

// `what()` reads "<operand>: expected <expected>, got <got>", or the message alone where nothing is compared.
class Error : public std::exception {
 public:
  Error(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  Error(Code code, std::string operand, std::string expected, std::string got)
      : code_(code),
        operand_(std::move(operand)),
        expected_(std::move(expected)),
        got_(std::move(got)),
        message_(operand_ + ": expected " + expected_ + ", got " + got_) {}

  const char* what() const noexcept override { return message_.c_str(); }
  Code code() const { return code_; }
  const std::string& operand() const { return operand_; }
  const std::string& expected() const { return expected_; }
  const std::string& got() const { return got_; }

 private:
  Code code_;
  std::string operand_, expected_, got_, message_;
};

}  // namespace crosscurrent
