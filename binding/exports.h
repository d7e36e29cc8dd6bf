// What each file of the binding adds to the module.
#pragma once

#include <node_api.h>

#include <initializer_list>

#include "values.h"

namespace crosscurrent::binding {

struct Export {
  const char* name;
  napi_callback call;
};

inline void define(napi_env env, napi_value exports, std::initializer_list<Export> list) {
  for (const Export& item : list) {
    napi_value function;
    check(env, napi_create_function(env, item.name, NAPI_AUTO_LENGTH, item.call, nullptr, &function));
    set(env, exports, item.name, function);
  }
}

void define_blocks(napi_env env, napi_value exports);
void define_devices(napi_env env, napi_value exports);
void define_kernels(napi_env env, napi_value exports);
void define_packing(napi_env env, napi_value exports);
void define_programs(napi_env env, napi_value exports);
void define_sessions(napi_env env, napi_value exports);
void define_weights(napi_env env, napi_value exports);

}  // namespace crosscurrent::binding
