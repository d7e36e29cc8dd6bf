// Native tests: a program is a file of these, its main() comes from harness.cpp.
//
//   const Test reuse("page table: a freed page is reused", [] {
//     expect_equal(table.allocate(), 0, "first page");
//     expect_error(Code::invalid_program, [] { parse({}); });
//   });
#pragma once

#include <functional>
#include <span>
#include <sstream>
#include <string>
#include <string_view>

#include "native/error.h"

namespace crosscurrent::test {

struct Test {
  Test(std::string name, std::function<void()> body);
};

// Ends the current test as failed.
[[noreturn]] void fail(const std::string& message);

inline void expect(bool condition, std::string_view what) {
  if (!condition) fail(std::string(what));
}

template <class A, class B>
void expect_equal(const A& got, const B& expected, std::string_view what) {
  if (got == expected) return;
  std::ostringstream message;
  message << what << ": expected " << expected << ", got " << got;
  fail(message.str());
}

// `body` throws Error with this code.
void expect_error(Code code, const std::function<void()>& body);

// Runs what was registered, or those tests whose names contain one of `wanted`, and prints `N passed, N
// failed`; the exit status of a program.
int run_all(std::span<char*> wanted);

}  // namespace crosscurrent::test
