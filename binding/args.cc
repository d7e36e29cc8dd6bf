#include "args.h"

#include <cmath>
#include <type_traits>

#include "kernels.h"

namespace crosscurrent::binding {
namespace {

constexpr uint32_t kMostElements = 1 << 20;  // `new Array(2 ** 32 - 1)` costs its maker nothing

template <class... Ts>
struct Kinds {
  static const char* name(napi_env env, napi_value value) {
    const char* found = nullptr;
    const auto test = [&]<class T>(std::type_identity<T>) {
      bool matches = false;
      if (found == nullptr &&
          napi_check_object_type_tag(env, value, &HandleKind<T>::tag, &matches) == napi_ok && matches)
        found = HandleKind<T>::name;
    };
    (test(std::type_identity<Ts>{}), ...);
    return found;
  }
};

napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type;
}

}  // namespace

const char* handle_name(napi_env env, napi_value value) {
  using All = Kinds<LiveSession, Weights, const Program, TensorStore, Block, const Result, SpecList, Control,
                    const cpu::PackedMatrix, cpu::KvCache>;
  if (type_of(env, value) != napi_object) return nullptr;
  return All::name(env, value);
}

HandleBase* any_handle(napi_env env, napi_value value) {
  if (handle_name(env, value) == nullptr) return nullptr;
  void* data = nullptr;
  check(env, napi_unwrap(env, value, &data));
  return static_cast<HandleBase*>(data);
}

Args::Args(napi_env env, napi_callback_info info, const char* call) : env_(env), call_(call) {
  size_t count = kMost;
  check(env,
        napi_get_cb_info(env, info, &count, values_, nullptr, nullptr));  // missing ones become undefined
}

bool Args::absent_value(napi_value value) const {
  const napi_valuetype type = type_of(env_, value);
  return type == napi_undefined || type == napi_null;
}

bool Args::is_object(napi_value value) const { return type_of(env_, value) == napi_object; }

bool Args::absent(size_t i) const { return absent_value(values_[i]); }

std::string Args::shown(napi_value value) const {
  switch (type_of(env_, value)) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return "a boolean";
    case napi_number: {
      double number = 0;
      check(env_, napi_get_value_double(env_, value, &number));
      if (number == std::floor(number) && std::abs(number) < 9007199254740992.0)
        return std::to_string(static_cast<int64_t>(number));
      return std::isfinite(number) ? std::to_string(number)
             : std::isnan(number)  ? "NaN"
                                   : "an infinite number";
    }
    case napi_string: return "a string";
    case napi_symbol: return "a symbol";
    case napi_function: return "a function";
    case napi_bigint: return "a bigint";
    case napi_external: return "an external";
    case napi_object: break;
  }
  if (const char* kind = handle_name(env_, value)) return std::string("a ") + kind;
  bool is_typed = false, is_array = false;
  check(env_, napi_is_typedarray(env_, value, &is_typed));
  check(env_, napi_is_array(env_, value, &is_array));
  return is_typed ? "another typed array" : is_array ? "an array" : "an object";
}

void Args::wrong(const std::string& name, const std::string& expected, const std::string& got) const {
  throw Error(Code::invalid_argument, std::string(call_) + ": " + name, expected, got);
}

void Args::wrong_handle(size_t i, const char* name, const char* expected) const {
  bool pending = false;  // a proxy's trap may have thrown
  if (napi_is_exception_pending(env_, &pending) == napi_ok && pending) throw JsPending{};
  wrong(name, std::string("a ") + expected, shown(values_[i]));
}

void Args::closed(const char* name) const {
  throw Error(Code::disposed, std::string(call_) + ": " + name, std::string("an open ") + name,
              "a closed one");
}

std::span<std::byte> Args::view(napi_value value, const std::string& name, napi_typedarray_type type,
                                const char* type_name, size_t element_bytes) const {
  bool is_typed = false;
  check(env_, napi_is_typedarray(env_, value, &is_typed));
  if (!is_typed) wrong(name, type_name, shown(value));
  napi_typedarray_type actual;
  size_t length = 0;
  void* data = nullptr;
  check(env_, napi_get_typedarray_info(env_, value, &actual, &length, &data, nullptr, nullptr));
  if (actual != type) wrong(name, type_name, shown(value));
  if (data == nullptr) length = 0;  // detached
  return {static_cast<std::byte*>(data), length * element_bytes};
}

std::span<const int32_t> Args::i32s(size_t i, const char* name) const {
  const auto found = view(values_[i], name, napi_int32_array, "an Int32Array", sizeof(int32_t));
  return {reinterpret_cast<const int32_t*>(found.data()), found.size() / sizeof(int32_t)};
}

std::span<std::byte> Args::bytes(size_t i, const char* name) const {
  return view(values_[i], name, napi_uint8_array, "a Uint8Array", 1);
}

std::span<const float> Args::f32s_of(napi_value value, const std::string& name) const {
  const auto found = view(value, name, napi_float32_array, "a Float32Array", sizeof(float));
  return {reinterpret_cast<const float*>(found.data()), found.size() / sizeof(float)};
}

napi_value Args::function(size_t i, const char* name) const {
  if (type_of(env_, values_[i]) != napi_function) wrong(name, "a function", shown(values_[i]));
  return values_[i];
}

std::string Args::text(size_t i, const char* name) const { return text_of(values_[i], name); }

std::string Args::text_of(napi_value value, const std::string& name) const {
  if (type_of(env_, value) != napi_string) wrong(name, "a string", shown(value));
  size_t length = 0;
  check(env_, napi_get_value_string_utf8(env_, value, nullptr, 0, &length));
  std::string found(length, '\0');
  check(env_, napi_get_value_string_utf8(env_, value, found.data(), length + 1, &length));
  return found;
}

int64_t Args::integer(size_t i, const char* name, int64_t low, int64_t high) const {
  return integer_of(values_[i], name, low, high);
}

int64_t Args::integer_of(napi_value value, const std::string& name, int64_t low, int64_t high) const {
  const auto expected = [&] { return "an integer " + std::to_string(low) + ".." + std::to_string(high); };
  double number = 0;
  if (napi_get_value_double(env_, value, &number) != napi_ok) wrong(name, expected(), shown(value));
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) ||
      number != std::floor(number))
    wrong(name, expected(), shown(value));
  return static_cast<int64_t>(number);
}

bool Args::flag_of(napi_value value, const std::string& name) const {
  bool flag = false;
  if (napi_get_value_bool(env_, value, &flag) != napi_ok) wrong(name, "a boolean", shown(value));
  return flag;
}

std::vector<napi_value> Args::array_of(napi_value value, const std::string& name) const {
  bool is_array = false;
  check(env_, napi_is_array(env_, value, &is_array));
  if (!is_array) wrong(name, "an array", shown(value));
  uint32_t length = 0;
  check(env_, napi_get_array_length(env_, value, &length));
  if (length > kMostElements)
    wrong(name, "at most " + std::to_string(kMostElements) + " elements", std::to_string(length));
  std::vector<napi_value> elements;
  for (uint32_t i = 0; i < length; ++i)
    check(env_, napi_get_element(env_, value, i, &elements.emplace_back()));
  return elements;
}

napi_value Args::member(napi_value object, const char* key, const std::string& name) const {
  if (!is_object(object)) wrong(name, "an object", shown(object));
  napi_value value;
  check(env_, napi_get_named_property(env_, object, key, &value));
  return value;
}

}  // namespace crosscurrent::binding
