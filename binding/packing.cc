// Weights of `crosscurrent/kernels`: packed for the kernels, in native memory.
#include <span>
#include <string>
#include <vector>

#include "../native/cpu/pack_values.h"
#include "args.h"
#include "arrays.h"
#include "exports.h"
#include "kernels.h"

namespace crosscurrent::binding {
namespace {

napi_value packed_handle(napi_env env, std::shared_ptr<const cpu::PackedMatrix> packed) {
  const uint64_t bytes = packed->plan.bytes;
  return make_handle(env, std::move(packed), bytes);
}

// What both ways of packing are given: (bits: 4 | 8, arrays, shape: [experts, out, in, group], …).
struct PackArguments {
  int bits;
  std::string call;
  std::vector<napi_value> arrays;
  cpu::GroupShape shape;

  PackArguments(const Args& args, size_t count, const char* arrays_expected)
      : bits(static_cast<int>(args.integer(0, "bits", 4, 8))), call(bits == 4 ? "packInt4" : "packInt8") {
    if (bits != 4 && bits != 8) throw Error(Code::invalid_argument, "bits", "4 or 8", std::to_string(bits));
    arrays = args.array_of(args[1], call + ": arrays");
    if (arrays.size() != count)
      throw Error(Code::invalid_argument, call + ": arrays", arrays_expected, "others");
    const auto sides = args.array_of(args[2], call + ": shape");
    if (sides.size() != 4)
      throw Error(Code::invalid_argument, call + ": shape", "[experts, out, in, group]",
                  std::to_string(sides.size()) + " values");
    const auto side = [&](size_t at) {
      return args.integer_of(sides[at], call + ": shape", 0, int64_t{1} << 52);
    };
    shape = {side(0), side(1), side(2), side(3), bits};
  }
};

// pack(control) on the load lane.
template <class Pack>
napi_value post_pack(napi_env env, const Args& args, size_t control, Pack pack) {
  return post_kept(
      env, LaneId::load, args[1], args.optional_handle<Control>(control, "control"),
      [pack](Control& running) { return std::make_shared<const cpu::PackedMatrix>(pack(running)); },
      packed_handle);
}

// packGroups(bits, arrays: [values, scales, zeros?], shape, control?: Control): Promise<PackedWeight>
napi_value pack_groups(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "packGroups");
    const PackArguments given(args, 3, "values, scales and zeros");
    const auto& [bits, call, arrays, shape] = given;
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
    return post_pack(env, args, 3, [call = call, shape = shape, q, scales, zeros](Control& control) {
      return cpu::pack_groups(call, shape, q, scales, zeros, control.cancelled);
    });
  });
}

// packFloats(bits, arrays: [weight], shape, isSymmetric: boolean, control?: Control): Promise<PackedWeight>
napi_value pack_floats(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "packFloats");
    const PackArguments given(args, 1, "one");
    const auto& [bits, call, arrays, shape] = given;
    const auto values = elements_of<float>(array_of(env, arrays[0], call + ": weight"), napi_float32_array,
                                           call + ": weight", "a Float32Array");
    const bool is_symmetric = args.flag_of(args[3], call + ": symmetric");
    cpu::check_groups(call, shape, static_cast<int64_t>(values.size()));
    return post_pack(env, args, 4, [call = call, shape = shape, values, is_symmetric](Control& control) {
      return cpu::quantize_groups(call, shape, values, is_symmetric, control.cancelled);
    });
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

}  // namespace

void define_packing(napi_env env, napi_value exports) {
  define(env, exports,
         {{"packGroups", pack_groups}, {"packFloats", pack_floats}, {"packedInfo", packed_info}});
}

}  // namespace crosscurrent::binding
