// Bytes and floats across the boundary: small ones in one copy, large ones in pieces (see Block and Result).
#pragma once

#include <node_api.h>

#include <cstddef>
#include <memory>
#include <vector>

#include "args.h"

namespace crosscurrent::binding {

// Copying this much takes well under a millisecond.
inline constexpr size_t kInlineBytes = size_t{1} << 20;

// A Uint8Array is copied, a block is emptied.
std::vector<std::byte> take_bytes(const Args& args, size_t i, const char* name);

// The same for calls that only read: a result is shared.
std::shared_ptr<const Result> hold_bytes(const Args& args, size_t i, const char* name);

template <class Element>
std::shared_ptr<const Result> as_result(std::vector<Element> values) {
  const auto owner = std::make_shared<const std::vector<Element>>(std::move(values));
  return std::make_shared<const Result>(Result{owner, std::as_bytes(std::span(*owner))});
}

// A typed array, or a result where that would take too long.
template <class Element>
napi_value give(napi_env env, std::vector<Element> values) {
  const std::span<const Element> view(values);
  if (view.size_bytes() <= kInlineBytes) return typed_array(env, view);
  const size_t bytes = view.size_bytes();
  return make_handle<const Result>(env, as_result(std::move(values)), bytes);
}

}  // namespace crosscurrent::binding
