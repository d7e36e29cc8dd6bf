// Native objects in JavaScript's hands: plain objects with a type tag and a shared pointer inside.
//
// Jobs hold copies of the pointer, so closing a handle never pulls memory from under a running step. The
// garbage collector is told how much a handle keeps, and its finalizer is the safety net for handles that
// nobody closed.
#pragma once

#include <node_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "../native/backend.h"
#include "engine_thread.h"
#include "values.h"

namespace crosscurrent::binding {

// Large data crosses in pieces, so that no call holds the event loop for long: a block is filled by
// JavaScript, then given to a call; a result comes from a call, and JavaScript copies it out.
struct Block {
  std::vector<std::byte> bytes;
};

struct Result {
  std::shared_ptr<const void> owner;
  std::span<const std::byte> bytes;  // of `owner`
};

struct SpecList {
  std::vector<WeightSpec> specs;
};

// A session with what calls check against; `session` is touched on the step lane only.
struct LiveSession {
  std::shared_ptr<const Program> program;
  std::unique_ptr<Session> session;
  StepLimits limits;
  SessionBytes bytes;
};

// `is_large`: freed on a lane, as giving back much memory takes its time.
template <class T>
struct HandleKind;
template <>
struct HandleKind<TensorStore> {
  static constexpr const char* name = "file";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e01, 0x9d3a1c0f5be87201};
};
template <>
struct HandleKind<Weights> {
  static constexpr const char* name = "weights";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e02, 0x9d3a1c0f5be87202};
};
template <>
struct HandleKind<const Program> {
  static constexpr const char* name = "program";
  static constexpr bool is_large = false;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e03, 0x9d3a1c0f5be87203};
};
template <>
struct HandleKind<LiveSession> {
  static constexpr const char* name = "session";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e04, 0x9d3a1c0f5be87204};
};
template <>
struct HandleKind<Block> {
  static constexpr const char* name = "block";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e05, 0x9d3a1c0f5be87205};
};
template <>
struct HandleKind<const Result> {
  static constexpr const char* name = "result";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e06, 0x9d3a1c0f5be87206};
};
template <>
struct HandleKind<SpecList> {
  static constexpr const char* name = "specs";
  static constexpr bool is_large = false;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e07, 0x9d3a1c0f5be87207};
};
template <>
struct HandleKind<Control> {
  static constexpr const char* name = "control";
  static constexpr bool is_large = false;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e08, 0x9d3a1c0f5be87208};
};

// What every handle wraps, whatever its kind.
class HandleBase {
 public:
  virtual ~HandleBase() = default;
  virtual void close(napi_env env) noexcept = 0;  // idempotent
};

template <class T>
class Handle final : public HandleBase {
 public:
  Handle(std::shared_ptr<Engine> engine, std::shared_ptr<T> value, uint64_t bytes)
      : engine_(std::move(engine)), value_(std::move(value)), bytes_(static_cast<int64_t>(bytes)) {}

  const std::shared_ptr<T>& value() const { return value_; }

  void close(napi_env env) noexcept override {
    if (value_ == nullptr) return;
    int64_t total = 0;
    if (bytes_ != 0) napi_adjust_external_memory(env, -bytes_, &total);
    if constexpr (HandleKind<T>::is_large)
      engine_->drop(std::exchange(value_, nullptr));
    else
      value_ = nullptr;
  }

 private:
  std::shared_ptr<Engine>
      engine_;                // outlives the environment's instance data, as finalizers may run after it
  std::shared_ptr<T> value_;  // null once closed
  int64_t bytes_;
};

// Most that a handle says it keeps. V8 answers more with full collections, 5 to 10 ms each on the event loop:
// at once at 64 MiB, and in the first generation when all handles of a model come to a few tens. Of forgotten
// handles some of this size still set one off.
constexpr uint64_t kMostToldBytes = 1u << 20;

// `bytes`: what the garbage collector should know that the handle keeps.
template <class T>
napi_value make_handle(napi_env env, std::shared_ptr<T> value, uint64_t bytes = 0) {
  bytes = std::min(bytes, kMostToldBytes);
  const napi_value wrapper = object(env);
  check(env, napi_type_tag_object(env, wrapper, &HandleKind<T>::tag));
  auto handle = std::make_unique<Handle<T>>(Engine::of(env).shared_from_this(), std::move(value), bytes);
  const auto finalize = [](napi_env finalizing, void* data, void*) {
    const std::unique_ptr<HandleBase> owned(static_cast<HandleBase*>(data));
    owned->close(finalizing);
  };
  check(env, napi_wrap(env, wrapper, static_cast<HandleBase*>(handle.get()), finalize, nullptr, nullptr));
  handle.release();
  int64_t total = 0;
  if (bytes != 0) check(env, napi_adjust_external_memory(env, static_cast<int64_t>(bytes), &total));
  return wrapper;
}

// The kind of a value for error messages: of a handle its name, else null.
const char* handle_name(napi_env env, napi_value value);

// Null where `value` is no handle at all.
HandleBase* any_handle(napi_env env, napi_value value);

}  // namespace crosscurrent::binding
