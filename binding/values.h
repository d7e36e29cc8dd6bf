// Making JavaScript values. Every function throws as `check` does.
#pragma once

#include <node_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "error.h"

namespace crosscurrent::binding {

inline napi_value undefined(napi_env env) {
  napi_value value;
  check(env, napi_get_undefined(env, &value));
  return value;
}

inline napi_value number(napi_env env, double from) {
  napi_value value;
  check(env, napi_create_double(env, from, &value));
  return value;
}

inline napi_value text(napi_env env, std::string_view from) {
  napi_value value;
  check(env, napi_create_string_utf8(env, from.data(), from.size(), &value));
  return value;
}

inline napi_value object(napi_env env) {
  napi_value value;
  check(env, napi_create_object(env, &value));
  return value;
}

inline void set(napi_env env, napi_value target, const char* key, napi_value value) {
  check(env, napi_set_named_property(env, target, key, value));
}

template <class Element>
struct ArrayKind;
template <>
struct ArrayKind<std::byte> {
  static constexpr napi_typedarray_type type = napi_uint8_array;
};
template <>
struct ArrayKind<int32_t> {
  static constexpr napi_typedarray_type type = napi_int32_array;
};
template <>
struct ArrayKind<uint32_t> {
  static constexpr napi_typedarray_type type = napi_uint32_array;
};
template <>
struct ArrayKind<float> {
  static constexpr napi_typedarray_type type = napi_float32_array;
};
template <>
struct ArrayKind<double> {
  static constexpr napi_typedarray_type type = napi_float64_array;
};

// A typed array over memory of its own, with a copy of `from`.
template <class Element>
napi_value typed_array(napi_env env, std::span<const Element> from) {
  void* data = nullptr;
  napi_value buffer, array;
  check(env, napi_create_arraybuffer(env, from.size_bytes(), &data, &buffer));
  if (!from.empty()) std::memcpy(data, from.data(), from.size_bytes());
  check(env, napi_create_typedarray(env, ArrayKind<Element>::type, from.size(), buffer, 0, &array));
  return array;
}

}  // namespace crosscurrent::binding
