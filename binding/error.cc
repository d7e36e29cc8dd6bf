#include "error.h"

#include <new>
#include <string>
#include <string_view>

#include "engine_thread.h"
#include "values.h"

namespace crosscurrent::binding {
namespace {

Error as_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return e;
  } catch (const std::bad_alloc&) {
    return Error(Code::out_of_memory, "out of memory");
  } catch (const std::exception& e) {
    return Error(Code::internal, e.what());
  } catch (...) {
    return Error(Code::internal, "unknown exception");
  }
}

void clear_pending(napi_env env) noexcept {
  bool pending = false;
  napi_value ignored;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending)
    napi_get_and_clear_last_exception(env, &ignored);
}

napi_value make_error(napi_env env, const Error& error) {
  const napi_value code = text(env, code_name(error.code()));
  const napi_value message = text(env, error.what());
  napi_value constructor = Engine::of(env).error_class(env);
  napi_value made;
  if (constructor == nullptr) {
    check(env, napi_create_error(env, code, message, &made));
    return made;
  }
  const napi_value details = object(env);
  if (!error.operand().empty()) {
    set(env, details, "operand", text(env, error.operand()));
    set(env, details, "expected", text(env, error.expected()));
    set(env, details, "got", text(env, error.got()));
  }
  const napi_value arguments[] = {code, message, details};
  check(env, napi_new_instance(env, constructor, 3, arguments, &made));
  return made;
}

}  // namespace

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  // before any other call: they overwrite the information
  const napi_extended_error_info* info = nullptr;
  napi_get_last_error_info(env, &info);
  const std::string message =
      info != nullptr && info->error_message != nullptr ? info->error_message : "unknown status";
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending || status == napi_pending_exception) throw JsPending{};
  throw Error(Code::internal, "Node-API: " + message);
}

napi_value js_error(napi_env env, std::exception_ptr error) noexcept {
  try {
    return make_error(env, as_error(error));
  } catch (...) {
    clear_pending(env);
    return nullptr;
  }
}

void throw_js(napi_env env, std::exception_ptr error) noexcept {
  const napi_value made = js_error(env, std::move(error));
  if (made != nullptr)
    napi_throw(env, made);
  else
    napi_throw_error(env, "INTERNAL", "an error that could not be described");
}

}  // namespace crosscurrent::binding
