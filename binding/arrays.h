// Arrays that stay JavaScript's while native code reads and writes them in place.
#pragma once

#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "engine_thread.h"
#include "values.h"

namespace crosscurrent::binding {

// Keeps the arrays of a call from the garbage collector. Let go only where the result is delivered: an
// environment that ends first frees its references itself, once the lanes have stopped.
class Kept {
 public:
  Kept(napi_env env, napi_value arrays) { check(env, napi_create_reference(env, arrays, 1, &reference_)); }
  void release(napi_env env) const { napi_delete_reference(env, reference_); }

 private:
  napi_ref reference_ = nullptr;
};

// What work gave or threw. Jobs here never throw, so that `Kept` is released whatever happened.
template <class T>
struct Outcome {
  T value{};
  std::exception_ptr error;
};

// work(control) on a lane with the arrays kept, then convert(env, value). The engine knows no control of the
// job: a cancelled one must be delivered as any other.
template <class Work, class Convert>
napi_value post_kept(napi_env env, LaneId lane, napi_value arrays, std::shared_ptr<Control> control,
                     Work work, Convert convert) {
  if (control == nullptr) control = std::make_shared<Control>();
  using Value = decltype(work(*control));
  const Kept kept(env, arrays);
  try {
    return Engine::of(env).post(
        env, lane, nullptr,
        [control, work = std::move(work)](Control&) mutable {
          Outcome<Value> outcome;
          try {
            if (control->cancelled) throw Error(Code::aborted, "aborted before it started");
            outcome.value = work(*control);
          } catch (...) {
            outcome.error = std::current_exception();
          }
          return outcome;
        },
        [kept, convert = std::move(convert)](napi_env env, Outcome<Value> outcome) {
          kept.release(env);
          if (outcome.error) std::rethrow_exception(outcome.error);
          return convert(env, std::move(outcome.value));
        });
  } catch (...) {
    kept.release(env);
    throw;
  }
}

struct Array {
  std::byte* data = nullptr;
  int64_t elements = 0;
  napi_typedarray_type type = napi_uint8_array;
};

// A typed array over memory that no other thread writes and nobody detached.
inline Array array_of(napi_env env, napi_value value, const std::string& name) {
  bool is_typed = false, is_own = false, is_detached = false;
  check(env, napi_is_typedarray(env, value, &is_typed));
  if (!is_typed) throw Error(Code::invalid_argument, name, "a typed array", "another value");
  size_t length = 0;
  void* data = nullptr;
  napi_value buffer;
  Array array;
  check(env, napi_get_typedarray_info(env, value, &array.type, &length, &data, &buffer, nullptr));
  check(env, napi_is_arraybuffer(env, buffer, &is_own));
  if (!is_own) throw Error(Code::invalid_argument, name, "memory of its own", "a SharedArrayBuffer");
  check(env, napi_is_detached_arraybuffer(env, buffer, &is_detached));
  if (is_detached) throw Error(Code::invalid_argument, name, "an array with its memory", "a detached one");
  if (length == 0 || data == nullptr) throw Error(Code::invalid_argument, name, "elements", "none");
  array.data = static_cast<std::byte*>(data);
  array.elements = static_cast<int64_t>(length);
  return array;
}

template <class T>
std::span<const T> elements_of(const Array& array, napi_typedarray_type type, const std::string& name,
                               const char* type_name) {
  if (array.type != type) throw Error(Code::invalid_argument, name, type_name, "another typed array");
  return {reinterpret_cast<const T*>(array.data), static_cast<size_t>(array.elements)};
}

}  // namespace crosscurrent::binding
