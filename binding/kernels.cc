// The calls of `crosscurrent/kernels`: one op, or one weight, over arrays that stay JavaScript's.
#include "kernels.h"

#include <span>
#include <string>

#include "../native/cpu/pack_values.h"
#include "../native/cpu/pool.h"
#include "../native/cpu/probe.h"
#include "../native/cpu/run_op.h"
#include "args.h"
#include "exports.h"

namespace crosscurrent::binding {
namespace {

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
Array array_of(napi_env env, napi_value value, const std::string& name) {
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

// The dtype of an array's elements; 16-bit words are what `sixteen` says.
DType dtype_of(const Array& array, DType sixteen, const std::string& name) {
  switch (array.type) {
    case napi_float32_array: return DType::f32;
    case napi_int32_array: return DType::i32;
    case napi_uint16_array:
      if (sixteen == DType::f16 || sixteen == DType::bf16) return sixteen;
      break;
    default: break;
  }
  throw Error(Code::invalid_argument, name, "a Float32Array, an Int32Array, or 16-bit words with a dtype",
              "another typed array");
}

class CallReader {
 public:
  CallReader(napi_env env, const Args& args) : env_(env), args_(args) {
    call_.opcode = static_cast<Opcode>(args.integer(0, "opcode", 0, std::size(kOps) - 1));
    const OpInfo& info = kOps[static_cast<size_t>(call_.opcode)];
    name_ = cpu::camel_case(info.name);
    for (const napi_value axis : args.array_of(args[1], name_ + ": axes"))
      call_.axes.push_back(args.integer_of(axis, name_ + ": axes", 0, int64_t{1} << 52));
    const auto attrs = args.i32s(2, "attrs");
    call_.attrs.assign(attrs.begin(), attrs.end());
    read_operands(info);
    read_options();
  }

  cpu::OpCall& call() { return call_; }

 private:
  void read_operands(const OpInfo& info) {
    const auto values = args_.array_of(args_[3], name_ + ": operands");
    const auto sixteen = args_.i32s(4, "dtypes");
    const size_t declared = info.operands.size();
    if (values.size() != declared + 1 || sixteen.size() != declared)
      throw Error(Code::invalid_argument, name_ + ": operands", std::to_string(declared + 1) + " values",
                  std::to_string(values.size()));
    for (size_t i = 0; i < declared; ++i) {
      const std::string name = name_ + ": " + cpu::camel_case(info.operands[i].name);
      const bool is_kv = info.operands[i].kind == OperandKind::kv;
      if (is_kv && !args_.absent_value(values[i])) call_.cache = shared<cpu::KvCache>(values[i], name);
      call_.operands.push_back(is_kv ? cpu::OpOperand{}
                                     : operand(values[i], static_cast<DType>(sixteen[i]), name));
    }
    call_.final_state = operand(values[declared], DType::f32, name_ + ": final state");
  }

  cpu::OpOperand operand(napi_value value, DType sixteen, const std::string& name) {
    cpu::OpOperand operand;
    if (args_.absent_value(value)) return operand;
    if (handle_name(env_, value) != nullptr) {
      operand.packed = shared<const cpu::PackedMatrix>(value, name);
      return operand;
    }
    const Array array = array_of(env_, value, name);
    operand.data = array.data;
    operand.elements = array.elements;
    operand.dtype = dtype_of(array, sixteen, name);
    return operand;
  }

  template <class T>
  std::shared_ptr<T> shared(napi_value value, const std::string& name) {
    bool matches = false;
    check(env_, napi_check_object_type_tag(env_, value, &HandleKind<T>::tag, &matches));
    if (!matches)
      throw Error(Code::invalid_argument, name, std::string("a ") + HandleKind<T>::name, "another object");
    void* data = nullptr;
    check(env_, napi_unwrap(env_, value, &data));
    const auto& held = static_cast<Handle<T>*>(static_cast<HandleBase*>(data))->value();
    if (held == nullptr)
      throw Error(Code::disposed, name, std::string("an open ") + HandleKind<T>::name, "a closed one");
    return held;
  }

  void read_options() {
    const auto option = [&](const char* key) { return args_.member(args_[5], key, name_ + ": options"); };
    const auto integers = [&](const char* key, std::vector<int32_t>& to) {
      const napi_value value = option(key);
      if (args_.absent_value(value)) return;
      const std::string name = name_ + ": " + key;
      const auto from =
          elements_of<int32_t>(array_of(env_, value, name), napi_int32_array, name, "an Int32Array");
      to.assign(from.begin(), from.end());
    };
    const auto flag = [&](const char* key, bool& to) {
      const napi_value value = option(key);
      if (!args_.absent_value(value)) to = args_.flag_of(value, name_ + ": " + key);
    };
    integers("first", call_.first);
    integers("firstKey", call_.first_key);
    integers("sampling", call_.sampling);
    flag("causal", call_.is_causal);
    flag("exact", call_.exact);
    const napi_value threads = option("threads"), isa = option("isa");
    if (!args_.absent_value(threads))
      call_.threads =
          static_cast<int32_t>(args_.integer_of(threads, name_ + ": threads", 0, cpu::Pool::kMaxThreads));
    if (args_.absent_value(isa)) return;
    call_.isa = cpu::required_isa(args_.text_of(isa, name_ + ": isa"));
  }

  napi_env env_;
  const Args& args_;
  std::string name_;
  cpu::OpCall call_;
};

// runOp(opcode: number, axes: number[], attrs: Int32Array, operands: unknown[], dtypes: Int32Array, options:
// object,
//   control?: Control): Promise<void>
//
// `operands`: as declared, inputs then outputs, and last where a recurrent state ends. They are read and
// written in place while the promise is pending, and checked before this returns.
napi_value run_op(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "runOp");
    CallReader reader(env, args);
    cpu::check_op(reader.call());
    return post_kept(
        env, LaneId::step, args[3], args.optional_handle<Control>(6, "control"),
        [call = std::move(reader.call())](Control&) {
          cpu::run_op(call);
          return true;
        },
        [](napi_env env, bool) { return undefined(env); });
  });
}

napi_value packed_handle(napi_env env, std::shared_ptr<const cpu::PackedMatrix> packed) {
  const uint64_t bytes = packed->plan.bytes;
  return make_handle(env, std::move(packed), bytes);
}

cpu::GroupShape group_shape(const Args& args, size_t i, const std::string& call, int bits) {
  const auto sides = args.array_of(args[i], call + ": shape");
  if (sides.size() != 4)
    throw Error(Code::invalid_argument, call + ": shape", "[experts, out, in, group]",
                std::to_string(sides.size()) + " values");
  const auto side = [&](size_t at) {
    return args.integer_of(sides[at], call + ": shape", 0, int64_t{1} << 52);
  };
  return {side(0), side(1), side(2), side(3), bits};
}

int bits_argument(const Args& args, size_t i) {
  const auto bits = static_cast<int>(args.integer(i, "bits", 4, 8));
  if (bits != 4 && bits != 8) throw Error(Code::invalid_argument, "bits", "4 or 8", std::to_string(bits));
  return bits;
}

// packGroups(bits: 4 | 8, arrays: [values, scales, zeros?], shape: [experts, out, in, group], control?:
// Control): Promise<PackedWeight>
napi_value pack_groups(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "packGroups");
    const int bits = bits_argument(args, 0);
    const std::string call = bits == 4 ? "packInt4" : "packInt8";
    const auto arrays = args.array_of(args[1], call + ": arrays");
    if (arrays.size() != 3)
      throw Error(Code::invalid_argument, call + ": arrays", "values, scales and zeros", "others");
    const cpu::GroupShape shape = group_shape(args, 2, call, bits);
    const Array values = array_of(env, arrays[0], call + ": values");
    const auto q = elements_of<uint8_t>(values, bits == 4 ? napi_uint8_array : napi_int8_array,
                                        call + ": values", bits == 4 ? "a Uint8Array" : "an Int8Array");
    const auto scales = elements_of<float>(array_of(env, arrays[1], call + ": scales"), napi_float32_array,
                                           call + ": scales", "a Float32Array");
    std::span<const uint8_t> zeros;
    if (!args.absent_value(arrays[2]))
      zeros = elements_of<uint8_t>(array_of(env, arrays[2], call + ": zeros"), napi_uint8_array,
                                   call + ": zeros", "a Uint8Array");
    cpu::check_groups(call, shape, values.elements);
    return post_kept(
        env, LaneId::load, args[1], args.optional_handle<Control>(3, "control"),
        [=](Control& control) -> std::shared_ptr<const cpu::PackedMatrix> {
          return std::make_shared<const cpu::PackedMatrix>(
              cpu::pack_groups(call, shape, q, scales, zeros, control.cancelled));
        },
        packed_handle);
  });
}

// packFloats(bits: 4 | 8, arrays: [weight], shape: [experts, out, in, group], isSymmetric: boolean, control?:
// Control): Promise<PackedWeight>
napi_value pack_floats(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "packFloats");
    const int bits = bits_argument(args, 0);
    const std::string call = bits == 4 ? "packInt4" : "packInt8";
    const auto arrays = args.array_of(args[1], call + ": arrays");
    if (arrays.size() != 1) throw Error(Code::invalid_argument, call + ": arrays", "one", "others");
    const cpu::GroupShape shape = group_shape(args, 2, call, bits);
    const auto values = elements_of<float>(array_of(env, arrays[0], call + ": weight"), napi_float32_array,
                                           call + ": weight", "a Float32Array");
    const bool is_symmetric = args.flag_of(args[3], call + ": symmetric");
    cpu::check_groups(call, shape, static_cast<int64_t>(values.size()));
    return post_kept(
        env, LaneId::load, args[1], args.optional_handle<Control>(4, "control"),
        [=](Control& control) -> std::shared_ptr<const cpu::PackedMatrix> {
          return std::make_shared<const cpu::PackedMatrix>(
              cpu::quantize_groups(call, shape, values, is_symmetric, control.cancelled));
        },
        packed_handle);
  });
}

// packedInfo(packed: PackedWeight): [experts, out, in, bytes]
napi_value packed_info(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "packedInfo");
    const cpu::PackPlan& plan = args.handle<const cpu::PackedMatrix>(0, "weight")->plan;
    const double facts[] = {static_cast<double>(plan.experts), static_cast<double>(plan.n),
                            static_cast<double>(plan.k), static_cast<double>(plan.bytes)};
    return typed_array(env, std::span<const double>(facts));
  });
}

// newKvCache(kvHeads: number, headDim: number, capacity: number): KvCache
napi_value new_kv_cache(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "KvCache");
    constexpr int64_t kMost = 1 << 20;
    auto cache = std::make_shared<cpu::KvCache>(args.integer(0, "kvHeads", 1, kMost),
                                                args.integer(1, "headDim", 1, kMost),
                                                args.integer(2, "capacity", 1, int64_t{1} << 30));
    const uint64_t bytes = cache->pages().bytes();
    return make_handle(env, std::move(cache), bytes);
  });
}

// appendKv(cache: KvCache, arrays: [k, v], threads: number, control?: Control): Promise<number>
//
// In order with the ops around it; the rows that the cache then holds.
napi_value append_kv(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "appendKv");
    const auto cache = args.handle<cpu::KvCache>(0, "cache");
    const auto arrays = args.array_of(args[1], "KvCache: arrays");
    if (arrays.size() != 2) throw Error(Code::invalid_argument, "KvCache: arrays", "k and v", "others");
    const auto floats = [&](size_t i, const std::string& name) {
      return elements_of<float>(array_of(env, arrays[i], name), napi_float32_array, name, "a Float32Array");
    };
    const auto k = floats(0, "KvCache: k"), v = floats(1, "KvCache: v");
    const auto width = static_cast<size_t>(cache->kv_heads() * cache->head_dim());
    if (k.size() % width != 0)
      throw Error(Code::invalid_argument, "KvCache: k", "rows of " + std::to_string(width) + " elements",
                  std::to_string(k.size()));
    if (v.size() != k.size())
      throw Error(Code::invalid_argument, "KvCache: v", std::to_string(k.size()) + " elements",
                  std::to_string(v.size()));
    const auto threads = static_cast<int>(args.integer(2, "threads", 0, cpu::Pool::kMaxThreads));
    return post_kept(
        env, LaneId::step, args[1], args.optional_handle<Control>(3, "control"),
        [=](Control&) {
          cache->append(k.data(), v.data(), static_cast<int64_t>(k.size() / width), threads);
          return cache->length();
        },
        [](napi_env env, int64_t length) { return number(env, static_cast<double>(length)); });
  });
}

// truncateKv(cache: KvCache, length: number): Promise<number>
napi_value truncate_kv(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "truncateKv");
    return Engine::of(env).post(
        env, LaneId::step, nullptr,
        [cache = args.handle<cpu::KvCache>(0, "cache"),
         length = args.integer(1, "length", 0, int64_t{1} << 52)](Control&) {
          cache->truncate(length);
          return length;
        },
        [](napi_env env, int64_t length) { return number(env, static_cast<double>(length)); });
  });
}

// probe(kind: 0 | 1 | 2, threads: number): Promise<number>
//
// Bytes read, f32 or int8 operations a second; 0 where this machine has no such instruction.
napi_value probe(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "probe");
    const auto kind = static_cast<cpu::Probe>(args.integer(0, "kind", 0, 2));
    const auto threads = static_cast<int>(args.integer(1, "threads", 0, cpu::Pool::kMaxThreads));
    return Engine::of(env).post(
        env, LaneId::step, nullptr, [=](Control&) { return cpu::measure(kind, threads); },
        [](napi_env env, double rate) { return number(env, rate); });
  });
}

}  // namespace

void define_kernels(napi_env env, napi_value exports) {
  define(env, exports,
         {{"runOp", run_op},
          {"packGroups", pack_groups},
          {"packFloats", pack_floats},
          {"packedInfo", packed_info},
          {"newKvCache", new_kv_cache},
          {"appendKv", append_kv},
          {"truncateKv", truncate_kv},
          {"probe", probe}});
}

}  // namespace crosscurrent::binding
