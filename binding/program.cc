#include "args.h"
#include "exports.h"

namespace crosscurrent::binding {
namespace {

// parseProgram(words: Int32Array): Program
//
// Copies and checks the words; the only call that does its work at once, as a program is a few thousand of
// them.
napi_value parse_program(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "parseProgram");
    const auto view = args.i32s(0, "words");
    // A copy first: a shared array could change between the check and the use.
    const std::vector<int32_t> words(view.begin(), view.end());
    return make_handle(env, std::make_shared<const Program>(Program::parse(words)));
  });
}

}  // namespace

void define_programs(napi_env env, napi_value exports) {
  define(env, exports, {{"parseProgram", parse_program}});
}

}  // namespace crosscurrent::binding
