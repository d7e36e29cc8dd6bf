#include <string>

#include "../native/cpu/kv_layout.h"
#include "../native/cpu/pool.h"
#include "args.h"
#include "block.h"
#include "exports.h"

namespace crosscurrent::binding {
namespace {

constexpr int32_t kMostUnits = 1 << 24;

SessionOptions read_options(const Args& args, size_t i) {
  SessionOptions options;
  const auto integer = [&](const char* key, int32_t& to, int64_t low, int64_t high) {
    const napi_value value = args.member(args[i], key, "options");
    if (!args.absent_value(value))
      to = static_cast<int32_t>(args.integer_of(value, std::string("options.") + key, low, high));
  };
  integer("slots", options.slots, 1, kMostUnits);
  integer("pages", options.pages, 0, kMostUnits);
  integer("pageTokens", options.page_tokens, 1, 1 << 16);
  integer("window", options.window, 1, 1 << 16);
  integer("threads", options.threads, 0, cpu::Pool::kMaxThreads);
  const napi_value isa = args.member(args[i], "isa", "options");
  if (!args.absent_value(isa)) options.isa = args.text_of(isa, "options.isa");
  const napi_value kv = args.member(args[i], "kv", "options");
  if (!args.absent_value(kv)) options.kv = cpu::required_kv("options.kv", args.text_of(kv, "options.kv"));
  const napi_value exact = args.member(args[i], "exact", "options");
  if (!args.absent_value(exact)) options.exact = args.flag_of(exact, "options.exact");
  return options;
}

// createSession(program: Program, weights: Weights, options: SessionOptions, control?: Control):
// Promise<Session>
napi_value create_session(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "createSession");
    const auto program = args.handle<const Program>(0, "program");
    const auto weights = args.handle<Weights>(1, "weights");
    const SessionOptions options = read_options(args, 2);
    auto control = args.optional_handle<Control>(3, "control");
    return Engine::of(env).post(
        env, LaneId::load, std::move(control),
        [program, weights, options](Control&) {
          auto session = cpu_backend().session(program, weights, options);
          const StepLimits limits = session->limits();
          const SessionBytes bytes = session->bytes();
          return std::make_shared<LiveSession>(LiveSession{program, std::move(session), limits, bytes});
        },
        [](napi_env env, std::shared_ptr<LiveSession> live) {
          const uint64_t bytes = live->bytes.arena + live->bytes.states + live->bytes.kv;
          return make_handle(env, std::move(live), bytes);
        });
  });
}

// Bits of `want`.
constexpr int64_t kWantIds = 1, kWantLogits = 2;

struct StepResult {
  std::vector<float> ids;  // as bits
  std::vector<float> logits;
};

// step(session: Session, words: Int32Array, want: number, control?: Control): Promise<{ ids?, logits? }>
//
// Queues one run of the session's program on the step lane and returns at once. `words` are copied here:
// JavaScript may reuse the array before the run starts.
napi_value step(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "step");
    const auto& live = args.handle<LiveSession>(0, "session");
    const auto words = args.i32s(1, "words");
    const int64_t want = args.integer(2, "want", 0, kWantIds | kWantLogits);
    if ((want & kWantIds) != 0 && live->program->ids < 0)
      throw Error(Code::invalid_argument, "step: want", "logits only, as the program does not sample", "ids");
    return Engine::of(env).post(
        env, LaneId::step, args.optional_handle<Control>(3, "control"),
        [live, words = std::vector(words.begin(), words.end()), want](Control& control) {
          const Step step = parse_step(words, live->limits);
          if ((want & kWantIds) != 0 && step.sampling.empty())
            throw Error(Code::invalid_argument, "step: want", "logits only, as the step does not sample",
                        "ids");
          live->session->step(step, control.cancelled);
          StepResult result;
          if ((want & kWantIds) != 0) result.ids = live->session->read(live->program->ids);
          if ((want & kWantLogits) != 0) result.logits = live->session->read(live->program->logits);
          return result;
        },
        [want](napi_env env, StepResult result) {
          if (want == 0) return undefined(env);
          const napi_value made = object(env);
          if ((want & kWantIds) != 0) {
            const std::span ids(reinterpret_cast<const int32_t*>(result.ids.data()), result.ids.size());
            set(env, made, "ids", typed_array(env, ids));
          }
          if ((want & kWantLogits) != 0) set(env, made, "logits", give(env, std::move(result.logits)));
          return made;
        });
  });
}

// readBuffer(session: Session, buffer: number): Promise<Float32Array | Result>
napi_value read_buffer(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "readBuffer");
    const auto& live = args.handle<LiveSession>(0, "session");
    const auto last = static_cast<int64_t>(live->program->buffers.size()) - 1;
    const auto buffer = static_cast<int32_t>(args.integer(1, "buffer", 0, last));
    return Engine::of(env).post(
        env, LaneId::step, nullptr, [live, buffer](Control&) { return live->session->read(buffer); },
        give<float>);
  });
}

// readState(session: Session, state: number, unit: number): Promise<Float32Array | Result>
napi_value read_state(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "readState");
    const auto& live = args.handle<LiveSession>(0, "session");
    const auto& states = live->program->states;
    const auto state =
        static_cast<int32_t>(args.integer(1, "state", 0, static_cast<int64_t>(states.size()) - 1));
    const bool paged = states[static_cast<size_t>(state)].kind == StateKind::kv;
    const int64_t units = paged ? live->limits.pages : live->limits.slots;
    const auto unit = static_cast<int32_t>(args.integer(2, "unit", 0, units - 1));
    return Engine::of(env).post(
        env, LaneId::step, nullptr,
        [live, state, unit](Control&) { return live->session->read_state(state, unit); }, give<float>);
  });
}

std::vector<int32_t> units_argument(const Args& args, size_t i, const char* name, int32_t end) {
  const auto view = args.i32s(i, name);
  std::vector<int32_t> units(view.begin(), view.end());
  for (const int32_t unit : units)
    if (unit < 0 || unit >= end)
      throw Error(Code::invalid_argument, name, "0 <= value < " + std::to_string(end), std::to_string(unit));
  return units;
}

std::vector<int32_t> pairs_argument(const Args& args, size_t i, const char* name, int32_t end) {
  auto units = units_argument(args, i, name, end);
  if (units.size() % 2 != 0)
    throw Error(Code::invalid_argument, name, "pairs [from, to, …]",
                std::to_string(units.size()) + " values");
  return units;
}

// copyUnits(session: Session, slots: Int32Array, pages: Int32Array): Promise<void>
//
// Pairs [from, to, …], in order with the steps around it.
napi_value copy_units(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "copyUnits");
    const auto& live = args.handle<LiveSession>(0, "session");
    auto slots = pairs_argument(args, 1, "slots", live->limits.slots);
    auto pages = pairs_argument(args, 2, "pages", live->limits.pages);
    return Engine::of(env).post(
        env, LaneId::step, nullptr,
        [live, slots = std::move(slots), pages = std::move(pages)](Control&) {
          for (size_t i = 0; i < slots.size(); i += 2) live->session->copy_slot(slots[i], slots[i + 1]);
          for (size_t i = 0; i < pages.size(); i += 2) live->session->copy_page(pages[i], pages[i + 1]);
          return true;
        },
        [](napi_env env, bool) { return undefined(env); });
  });
}

// save(session: Session, slot: number, pages: Int32Array): Promise<Uint8Array | Result>
napi_value save(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "save");
    const auto& live = args.handle<LiveSession>(0, "session");
    const auto slot = static_cast<int32_t>(args.integer(1, "slot", 0, live->limits.slots - 1));
    auto pages = units_argument(args, 2, "pages", live->limits.pages);
    return Engine::of(env).post(
        env, LaneId::step, nullptr,
        [live, slot, pages = std::move(pages)](Control&) { return live->session->save(slot, pages); },
        give<std::byte>);
  });
}

// restore(session: Session, bytes: Uint8Array | Block | Result, slot: number, pages: Int32Array):
// Promise<void>
napi_value restore(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "restore");
    const auto& live = args.handle<LiveSession>(0, "session");
    const auto slot = static_cast<int32_t>(args.integer(2, "slot", 0, live->limits.slots - 1));
    auto pages = units_argument(args, 3, "pages", live->limits.pages);
    return Engine::of(env).post(
        env, LaneId::step, nullptr,
        [live, bytes = hold_bytes(args, 1, "bytes"), slot, pages = std::move(pages)](Control&) {
          live->session->restore(bytes->bytes, slot, pages);
          return true;
        },
        [](napi_env env, bool) { return undefined(env); });
  });
}

// sessionLimits(session: Session): { t, seqs, rows, slots, pages, pageTokens, window, vocab }
napi_value session_limits(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "sessionLimits");
    const StepLimits& limits = args.handle<LiveSession>(0, "session")->limits;
    const napi_value made = object(env);
    set(env, made, "t", number(env, limits.t));
    set(env, made, "seqs", number(env, limits.seqs));
    set(env, made, "rows", number(env, limits.rows));
    set(env, made, "slots", number(env, limits.slots));
    set(env, made, "pages", number(env, limits.pages));
    set(env, made, "pageTokens", number(env, limits.page_tokens));
    set(env, made, "window", number(env, limits.window));
    set(env, made, "vocab", number(env, limits.vocab));
    return made;
  });
}

// sessionBytes(session: Session): { arena, states, kv }
napi_value session_bytes(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "sessionBytes");
    const SessionBytes& bytes = args.handle<LiveSession>(0, "session")->bytes;
    const napi_value made = object(env);
    set(env, made, "arena", number(env, static_cast<double>(bytes.arena)));
    set(env, made, "states", number(env, static_cast<double>(bytes.states)));
    set(env, made, "kv", number(env, static_cast<double>(bytes.kv)));
    return made;
  });
}

// expertLoads(session: Session): number[][]
napi_value expert_loads(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Args args(env, info, "expertLoads");
    const auto list = [&](const auto& values, const auto& convert) {
      napi_value made = nullptr;
      check(env, napi_create_array_with_length(env, values.size(), &made));
      for (uint32_t i = 0; i < values.size(); ++i)
        check(env, napi_set_element(env, made, i, convert(values[i])));
      return made;
    };
    return list(args.handle<LiveSession>(0, "session")->session->expert_loads(), [&](const auto& load) {
      return list(load, [&](uint64_t rows) { return number(env, static_cast<double>(rows)); });
    });
  });
}

}  // namespace

void define_sessions(napi_env env, napi_value exports) {
  define(env, exports,
         {{"createSession", create_session},
          {"step", step},
          {"readBuffer", read_buffer},
          {"readState", read_state},
          {"copyUnits", copy_units},
          {"save", save},
          {"restore", restore},
          {"sessionLimits", session_limits},
          {"sessionBytes", session_bytes},
          {"expertLoads", expert_loads}});
}

}  // namespace crosscurrent::binding
