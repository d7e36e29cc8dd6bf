// The bridge between C++ exceptions and JavaScript ones.
#pragma once

#include <node_api.h>

#include <exception>

#include "../native/error.h"

namespace crosscurrent::binding {

// A JavaScript exception is already pending: unwind to the callback and return.
struct JsPending {};

// Throws JsPending where JavaScript threw, Code::internal where the call itself was wrong.
void check(napi_env env, napi_status status);

// The error as JavaScript sees it: a CrosscurrentError with code, operand, expected and got. std::bad_alloc
// becomes OUT_OF_MEMORY, any other foreign exception INTERNAL. Null where the environment cannot make objects
// any more.
napi_value js_error(napi_env env, std::exception_ptr error) noexcept;

void throw_js(napi_env env, std::exception_ptr error) noexcept;

// The only try/catch of a callback.
template <class F>
napi_value guarded(napi_env env, F&& body) noexcept {
  try {
    return body();
  } catch (const JsPending&) {
  } catch (...) {
    throw_js(env, std::current_exception());
  }
  return nullptr;
}

}  // namespace crosscurrent::binding
