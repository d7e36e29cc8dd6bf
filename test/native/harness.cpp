#include "harness.h"

#include <algorithm>
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

int run_all(std::span<char*> wanted) {
  int passed = 0, failed = 0;
  for (const Case& test : cases()) {
    const auto matches = [&](const char* part) { return test.name.find(part) != std::string::npos; };
    if (!wanted.empty() && std::none_of(wanted.begin(), wanted.end(), matches)) continue;
    const std::string message = run(test);
    if (message.empty()) {
      ++passed;
      continue;
    }
    ++failed;
    std::printf("FAIL %s\n     %s\n", test.name.c_str(), message.c_str());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace crosscurrent::test

int main(int argc, char** argv) {
  return crosscurrent::test::run_all({argv + 1, static_cast<size_t>(argc > 0 ? argc - 1 : 0)});
}
