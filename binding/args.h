// The arguments of one call: each getter checks one and names it in its error.
#pragma once

#include <node_api.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "handle.h"

namespace crosscurrent::binding {

// Spans point into JavaScript's memory: copy before any call that may run JavaScript, and never leave the
// thread with them.
class Args {
 public:
  static constexpr size_t kMost = 8;

  Args(napi_env env, napi_callback_info info, const char* call);

  napi_value operator[](size_t i) const { return values_[i]; }
  bool absent(size_t i) const;  // undefined or null
  bool is_handle(size_t i) const { return handle_name(env_, values_[i]) != nullptr; }
  template <class T>
  bool is(size_t i) const {
    return is_handle(i) && std::string_view(handle_name(env_, values_[i])) == HandleKind<T>::name;
  }
  napi_value function(size_t i, const char* name) const;

  template <class T>
  const std::shared_ptr<T>& handle(size_t i, const char* name) const {
    bool matches = false;
    if (!is_object(values_[i]) ||
        napi_check_object_type_tag(env_, values_[i], &HandleKind<T>::tag, &matches) != napi_ok || !matches)
      wrong_handle(i, name, HandleKind<T>::name);
    void* data = nullptr;
    check(env_, napi_unwrap(env_, values_[i], &data));
    const auto& value = static_cast<Handle<T>*>(static_cast<HandleBase*>(data))->value();
    if (value == nullptr) closed(name);
    return value;
  }
  template <class T>
  std::shared_ptr<T> optional_handle(size_t i, const char* name) const {
    return absent(i) ? nullptr : handle<T>(i, name);
  }

  std::span<const int32_t> i32s(size_t i, const char* name) const;
  std::span<std::byte> bytes(size_t i, const char* name) const;  // Uint8Array
  std::string text(size_t i, const char* name) const;
  int64_t integer(size_t i, const char* name, int64_t low, int64_t high) const;

  // Of one value: for members of objects and arrays.
  std::string text_of(napi_value value, const std::string& name) const;
  int64_t integer_of(napi_value value, const std::string& name, int64_t low, int64_t high) const;
  std::span<const float> f32s_of(napi_value value, const std::string& name) const;
  bool flag_of(napi_value value, const std::string& name) const;
  std::vector<napi_value> array_of(napi_value value, const std::string& name) const;
  napi_value member(napi_value object, const char* key, const std::string& name) const;
  bool absent_value(napi_value value) const;
  bool is_object(napi_value value) const;

 private:
  std::span<std::byte> view(napi_value value, const std::string& name, napi_typedarray_type type,
                            const char* type_name, size_t element_bytes) const;
  std::string shown(napi_value value) const;  // "a string", "a closed session", …
  [[noreturn]] void wrong(const std::string& name, const std::string& expected, const std::string& got) const;
  [[noreturn]] void wrong_handle(size_t i, const char* name, const char* expected) const;
  [[noreturn]] void closed(const char* name) const;

  napi_env env_;
  const char* call_;
  napi_value values_[kMost];
};

}  // namespace crosscurrent::binding
