// One engine an environment: the threads that run native work, and the way back to its JavaScript thread.
//
// Two lanes, each a thread with a queue of its own, so that loading one model does not stall the steps of
// another. Results come back through one thread-safe function, which keeps the event loop alive only while
// promises are pending. The environment's cleanup hook cancels what runs and joins the threads before it lets
// go of the function.
#pragma once

#include <node_api.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "error.h"

namespace crosscurrent::binding {

// The side of a job that JavaScript holds on to: an AbortSignal sets the flag, progress is polled. May serve
// several jobs.
struct Control {
  std::atomic<bool> cancelled{false};
  std::atomic<uint64_t> done_bytes{0}, total_bytes{0};
};

enum class LaneId { step, load };

class Engine;

// `work` runs on a lane, then `deliver` settles the promise. Destroyed on the JavaScript thread, or on its
// lane where nothing is delivered.
class Job {
 public:
  explicit Job(std::shared_ptr<Control> control) : control_(std::move(control)) {}
  virtual ~Job() = default;
  virtual void work() noexcept = 0;
  virtual void deliver(napi_env env, Engine& engine) noexcept = 0;
  virtual bool wants_delivery() const { return true; }
  void cancel() { control_->cancelled = true; }
  napi_value promise(napi_env env);

 protected:
  bool cancelled() const { return control_->cancelled; }
  Control& control() const { return *control_; }
  void resolve(napi_env env, napi_value value) noexcept;
  void reject(napi_env env, std::exception_ptr error) noexcept;

 private:
  std::shared_ptr<Control> control_;
  napi_deferred deferred_ = nullptr;
};

class Lane {
 public:
  explicit Lane(Engine& engine) : engine_(engine) {}
  ~Lane() { stop(); }
  void post(std::unique_ptr<Job> job);  // throws where the thread cannot start
  void stop() noexcept;                 // cancels, joins, drops what is queued

 private:
  void run() noexcept;

  Engine& engine_;
  std::mutex mutex_;  // guards the queue, `running_` and `stopped_`
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Job>> queue_;
  Job* running_ = nullptr;
  bool stopped_ = false;
  std::thread thread_;
};

class Engine : public std::enable_shared_from_this<Engine> {
 public:
  static void create(napi_env env);
  static Engine& of(napi_env env);
  explicit Engine(napi_env env);
  ~Engine();

  // run(control) on the lane, then convert(env, result) on the JavaScript thread; the promise of what that
  // returns. A job that is cancelled before it is delivered rejects with ABORTED, whatever it did. `control`
  // may be null.
  template <class Run, class Convert>
  napi_value post(napi_env env, LaneId lane, std::shared_ptr<Control> control, Run run, Convert convert);

  // Lets go of `value` on the load lane, behind what is queued there: freeing gigabytes would hold up the
  // event loop.
  template <class T>
  void drop(T value) noexcept;

  // From a lane. A job that cannot be sent any more is destroyed.
  void send(std::unique_ptr<Job> job) noexcept;

  void set_error_class(napi_env env, napi_value constructor);
  napi_value error_class(napi_env env);  // null when none was given

  void delivered(napi_env env) noexcept;  // one pending promise less
  void stop_threads() noexcept;

 private:
  void close() noexcept;
  napi_value start(napi_env env, LaneId lane, std::unique_ptr<Job> job);
  void start_drop(std::unique_ptr<Job> job) noexcept;

  napi_threadsafe_function to_js_ = nullptr;
  napi_ref error_class_ = nullptr;
  int pending_ = 0;  // promises; JavaScript thread only
  std::mutex stopping_;
  std::atomic<bool> stopped_{false};
  Lane step_{*this}, load_{*this};
};

namespace detail {

template <class Run, class Convert>
class Task final : public Job {
  using Result = decltype(std::declval<Run&>()(std::declval<Control&>()));

 public:
  Task(std::shared_ptr<Control> control, Run run, Convert convert)
      : Job(std::move(control)), run_(std::move(run)), convert_(std::move(convert)) {}

  void work() noexcept override {
    try {
      if (cancelled()) throw Error(Code::aborted, "aborted before it started");
      result_.emplace((*run_)(control()));
    } catch (...) {
      error_ = std::current_exception();
    }
    run_.reset();  // what it holds may be the last reference to a session: freed here, not on the JavaScript
                   // thread
  }

  void deliver(napi_env env, Engine& engine) noexcept override {
    engine.delivered(env);
    try {
      if (error_) std::rethrow_exception(error_);
      if (cancelled()) {
        engine.drop(std::move(*result_));
        throw Error(Code::aborted, "aborted");
      }
      resolve(env, convert_(env, std::move(*result_)));
    } catch (...) {
      reject(env, std::current_exception());
    }
  }

 private:
  std::optional<Run> run_;
  Convert convert_;
  std::optional<Result> result_;
  std::exception_ptr error_;
};

template <class T>
class Drop final : public Job {
 public:
  explicit Drop(T value) : Job(std::make_shared<Control>()), value_(std::move(value)) {}
  void work() noexcept override { value_.reset(); }
  bool wants_delivery() const override { return false; }
  void deliver(napi_env, Engine&) noexcept override {}

 private:
  std::optional<T> value_;
};

}  // namespace detail

template <class Run, class Convert>
napi_value Engine::post(napi_env env, LaneId lane, std::shared_ptr<Control> control, Run run,
                        Convert convert) {
  if (control == nullptr) control = std::make_shared<Control>();
  using Posted = detail::Task<Run, Convert>;
  return start(env, lane, std::make_unique<Posted>(std::move(control), std::move(run), std::move(convert)));
}

template <class T>
void Engine::drop(T value) noexcept {
  try {
    start_drop(std::make_unique<detail::Drop<T>>(std::move(value)));
  } catch (const std::bad_alloc&) {
    // `value` is freed right here
  }
}

}  // namespace crosscurrent::binding
