// Handles of `crosscurrent/kernels`.
#pragma once

#include "../native/cpu/kv_cache.h"
#include "../native/cpu/pack.h"
#include "handle.h"

namespace crosscurrent::binding {

template <>
struct HandleKind<const cpu::PackedMatrix> {
  static constexpr const char* name = "packed weight";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e11, 0x9d3a1c0f5be87211};
};
template <>
struct HandleKind<cpu::KvCache> {
  static constexpr const char* name = "kv cache";
  static constexpr bool is_large = true;
  static constexpr napi_type_tag tag = {0x6b1f0c52d7a94e12, 0x9d3a1c0f5be87212};
};

}  // namespace crosscurrent::binding
