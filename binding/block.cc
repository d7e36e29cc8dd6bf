#include "block.h"

#include <algorithm>
#include <cstring>

#include "exports.h"

namespace crosscurrent::binding {
namespace {

constexpr int64_t kMostBytes = int64_t{1} << 40;

// newBlock(bytes: number): Promise<Block>
//
// Zeroed on the load lane: clearing a gigabyte takes a tenth of a second.
napi_value new_block(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "newBlock");
    const auto bytes = static_cast<size_t>(args.integer(0, "bytes", 0, kMostBytes));
    return Engine::of(env).post(
        env, LaneId::load, nullptr,
        [bytes](Control&) { return std::make_shared<Block>(Block{std::vector<std::byte>(bytes)}); },
        [](napi_env env, std::shared_ptr<Block> block) {
          return make_handle(env, block, block->bytes.size());
        });
  });
}

// fillBlock(block: Block, piece: Uint8Array, offset: number): void
napi_value fill_block(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "fillBlock");
    auto& bytes = args.handle<Block>(0, "block")->bytes;
    const auto piece = args.bytes(1, "piece");
    const auto room = static_cast<int64_t>(bytes.size()) - static_cast<int64_t>(piece.size());
    const auto offset = static_cast<size_t>(args.integer(2, "offset", 0, room));
    if (!piece.empty()) std::memcpy(bytes.data() + offset, piece.data(), piece.size());
    return undefined(env);
  });
}

// resultBytes(result: Result): number
napi_value result_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "resultBytes");
    return number(env, static_cast<double>(args.handle<const Result>(0, "result")->bytes.size()));
  });
}

// copyResult(result: Result, out: Uint8Array, offset: number): void
//
// Fills `out` from the result's bytes at `offset`.
napi_value copy_result(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "copyResult");
    const auto bytes = args.handle<const Result>(0, "result")->bytes;
    const auto out = args.bytes(1, "out");
    const auto room = static_cast<int64_t>(bytes.size()) - static_cast<int64_t>(out.size());
    const auto offset = static_cast<size_t>(args.integer(2, "offset", 0, room));
    if (!out.empty()) std::memcpy(out.data(), bytes.data() + offset, out.size());
    return undefined(env);
  });
}

}  // namespace

std::vector<std::byte> take_bytes(const Args& args, size_t i, const char* name) {
  if (args.is_handle(i)) return std::exchange(args.handle<Block>(i, name)->bytes, {});
  const auto bytes = args.bytes(i, name);
  return {bytes.begin(), bytes.end()};
}

std::shared_ptr<const Result> hold_bytes(const Args& args, size_t i, const char* name) {
  if (args.is<const Result>(i)) return args.handle<const Result>(i, name);
  return as_result(take_bytes(args, i, name));
}

void define_blocks(napi_env env, napi_value exports) {
  define(env, exports,
         {{"newBlock", new_block},
          {"fillBlock", fill_block},
          {"resultBytes", result_bytes},
          {"copyResult", copy_result}});
}

}  // namespace crosscurrent::binding
