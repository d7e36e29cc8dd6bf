// The module: one engine an environment, and the calls of the other files.
#include <node_api.h>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include "args.h"
#include "exports.h"

namespace crosscurrent::binding {
namespace {

// Node unloads an addon with the last worker that loaded it, but the threads of the process-wide pool run its
// code for ever.
void pin_library() {
  const auto address = reinterpret_cast<void*>(&pin_library);
#if defined(_WIN32)
  HMODULE module = nullptr;
  GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN,
                     static_cast<LPCSTR>(address), &module);
#else
  Dl_info library;
  if (dladdr(address, &library) != 0) dlopen(library.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
#endif
}

// setErrorClass(constructor): void
//
// Every error is made as `new constructor(code, message, { operand, expected, got })`.
napi_value set_error_class(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "setErrorClass");
    Engine::of(env).set_error_class(env, args.function(0, "constructor"));
    return undefined(env);
  });
}

// newControl(): Control
napi_value new_control(napi_env env, napi_callback_info) {
  return guarded(env, [&] { return make_handle(env, std::make_shared<Control>()); });
}

// cancel(control: Control): void
napi_value cancel(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "cancel");
    args.handle<Control>(0, "control")->cancelled = true;
    return undefined(env);
  });
}

// progress(control: Control): [doneBytes, totalBytes]
napi_value progress(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "progress");
    const auto& control = args.handle<Control>(0, "control");
    napi_value pair;
    check(env, napi_create_array_with_length(env, 2, &pair));
    check(env, napi_set_element(env, pair, 0, number(env, static_cast<double>(control->done_bytes))));
    check(env, napi_set_element(env, pair, 1, number(env, static_cast<double>(control->total_bytes))));
    return pair;
  });
}

// close(handle): void
//
// Any handle, any number of times. Jobs that run keep what they use.
napi_value close(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "close");
    HandleBase* handle = any_handle(env, args[0]);
    if (handle == nullptr) throw Error(Code::invalid_argument, "close: handle", "a handle", "another value");
    handle->close(env);
    return undefined(env);
  });
}

napi_value init(napi_env env, napi_value exports) {
  return guarded(env, [&] {
    pin_library();
    Engine::create(env);
    define(env, exports,
           {{"setErrorClass", set_error_class},
            {"newControl", new_control},
            {"cancel", cancel},
            {"progress", progress},
            {"close", close}});
    define_blocks(env, exports);
    define_devices(env, exports);
    define_kernels(env, exports);
    define_packing(env, exports);
    define_programs(env, exports);
    define_sessions(env, exports);
    define_weights(env, exports);
    return exports;
  });
}

}  // namespace
}  // namespace crosscurrent::binding

NAPI_MODULE(crosscurrent, crosscurrent::binding::init)
