#include "harness.h"

#include <cstdio>
#include <vector>

namespace crosscurrent::test {
namespace {

struct Failure {
  std::string message;
};

struct Case {
  std::string name;
  std::function<void()> body;
};

std::vector<Case>& cases() {
  static std::vector<Case> list;  // local: tests of other files register before this file's globals exist
  return list;
}

std::string run(const Case& test) {
  try {
    test.body();
    return "";
  } catch (const Failure& failure) {
    return failure.message;
  } catch (const std::exception& error) {
    return std::string("threw: ") + error.what();
  }
}

}  // namespace

Test::Test(std::string name, std::function<void()> body) {
  cases().push_back({std::move(name), std::move(body)});
}

void fail(const std::string& message) { throw Failure{message}; }

void expect_error(Code code, const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    if (error.code() == code) return;
    fail("expected " + std::string(code_name(code)) + ", got " + std::string(code_name(error.code())) + ": " +
         error.what());
  }
  fail("expected " + std::string(code_name(code)) + ", nothing was thrown");
}

int run_all() {
  int failed = 0;
  for (const Case& test : cases()) {
    const std::string message = run(test);
    if (message.empty()) continue;
    ++failed;
    std::printf("FAIL %s\n     %s\n", test.name.c_str(), message.c_str());
  }
  std::printf("%d passed, %d failed\n", static_cast<int>(cases().size()) - failed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace crosscurrent::test

int main() { return crosscurrent::test::run_all(); }
