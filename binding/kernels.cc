// The calls of `crosscurrent/kernels`: one op over arrays that stay JavaScript's, and its kv cache. Weights
// are packed in packing.cc.
#include "kernels.h"

#include <span>
#include <string>
#include <vector>

#include "../native/cpu/pool.h"
#include "../native/cpu/probe.h"
#include "../native/cpu/run_op.h"
#include "args.h"
#include "arrays.h"
#include "exports.h"

namespace crosscurrent::binding {
namespace {

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
    const napi_value threads = option("threads"), isa = option("isa"), kv = option("kv");
    if (!args_.absent_value(kv)) {
      const std::string name = name_ + ": kv";
      call_.kv = cpu::required_kv(name.c_str(), args_.text_of(kv, name));
    }
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

// newKvCache(kvHeads: number, headDim: number, capacity: number, dtype: string): KvCache
napi_value new_kv_cache(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "KvCache");
    constexpr int64_t kMost = 1 << 20;
    const DType dtype = cpu::required_kv("KvCache: dtype", args.text(3, "dtype"));
    auto cache = std::make_shared<cpu::KvCache>(dtype, args.integer(0, "kvHeads", 1, kMost),
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

// coreLatency(): Promise<number>
//
// Nanoseconds for a cache line from core to core, the median over pairs; 0 where there is one core.
napi_value core_latency(napi_env env, napi_callback_info) {
  return guarded(env, [&] {
    return Engine::of(env).post(
        env, LaneId::step, nullptr, [](Control&) { return cpu::measure_core_latency_ns(); },
        [](napi_env env, double ns) { return number(env, ns); });
  });
}

}  // namespace

void define_kernels(napi_env env, napi_value exports) {
  define(env, exports,
         {{"runOp", run_op},
          {"newKvCache", new_kv_cache},
          {"appendKv", append_kv},
          {"truncateKv", truncate_kv},
          {"probe", probe},
          {"coreLatency", core_latency}});
}

}  // namespace crosscurrent::binding
