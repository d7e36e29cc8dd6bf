#include <cstring>
#include <string>

#include "../native/cpu/isa.h"
#include "../native/cpu/memory.h"
#include "../native/cpu/pool.h"
#include "exports.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace crosscurrent::binding {
namespace {

// The processor's own name, empty where it does not tell.
std::string cpu_name() {
#if defined(__x86_64__) && defined(__GNUC__)
  constexpr unsigned kFirst = 0x80000002, kLast = 0x80000004;
  unsigned words[12];
  if (__get_cpuid_max(0x80000000, nullptr) < kLast) return {};
  for (unsigned leaf = kFirst; leaf <= kLast; ++leaf) {
    unsigned* w = words + (leaf - kFirst) * 4;
    __get_cpuid(leaf, &w[0], &w[1], &w[2], &w[3]);
  }
  const char* text = reinterpret_cast<const char*>(words);
  std::string name(text, strnlen(text, sizeof words));
  name.erase(0, name.find_first_not_of(' '));
  name.erase(name.find_last_not_of(' ') + 1);
  return name;
#else
  return {};
#endif
}

// devices(): { kind, name, isa, isas, threads, availableBytes }[]
napi_value devices(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    const napi_value cpu = object(env);
    set(env, cpu, "kind", text(env, "cpu"));
    set(env, cpu, "name", text(env, cpu_name()));
    set(env, cpu, "isa", text(env, cpu::isa_name(cpu::active_isa())));
    napi_value levels;
    const auto isas = cpu::available_isas();
    check(env, napi_create_array_with_length(env, isas.size(), &levels));
    for (size_t i = 0; i < isas.size(); ++i)
      check(env, napi_set_element(env, levels, static_cast<uint32_t>(i), text(env, cpu::isa_name(isas[i]))));
    set(env, cpu, "isas", levels);
    set(env, cpu, "threads", number(env, cpu::Pool::instance().threads()));
    set(env, cpu, "availableBytes", number(env, static_cast<double>(cpu::available_memory())));
    napi_value list;
    check(env, napi_create_array_with_length(env, 1, &list));
    check(env, napi_set_element(env, list, 0, cpu));
    return list;
  });
}

}  // namespace

void define_devices(napi_env env, napi_value exports) { define(env, exports, {{"devices", devices}}); }

}  // namespace crosscurrent::binding
