#include "engine_thread.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>
#include <vector>

#include "../native/cpu/thread_slice.h"
#include "values.h"

namespace crosscurrent::binding {
namespace {

// Engines of all environments, for the exit handler. Never destroyed: it must outlive every static.
struct Registry {
  std::mutex mutex;
  std::vector<Engine*> engines;
};

Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

// process.exit() runs no cleanup hook of the main environment, only exit handlers and then destructors of
// statics: without this, a step would still run while what it uses is torn down.
void stop_all() {
  const std::lock_guard lock(registry().mutex);
  for (Engine* engine : registry().engines) engine->stop_threads();
}

void call_js(napi_env env, napi_value, void* context, void* data) {
  const std::unique_ptr<Job> job(static_cast<Job*>(data));
  if (env != nullptr) job->deliver(env, *static_cast<Engine*>(context));
}

}  // namespace

napi_value Job::promise(napi_env env) {
  napi_value promise;
  check(env, napi_create_promise(env, &deferred_, &promise));
  return promise;
}

void Job::resolve(napi_env env, napi_value value) noexcept { napi_resolve_deferred(env, deferred_, value); }

void Job::reject(napi_env env, std::exception_ptr error) noexcept {
  bool pending = false;
  napi_value value = nullptr;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending)
    napi_get_and_clear_last_exception(env, &value);
  else
    value = js_error(env, std::move(error));
  if (value != nullptr) napi_reject_deferred(env, deferred_, value);
}

void Lane::post(std::unique_ptr<Job> job) {
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) throw Error(Code::disposed, "the environment is shutting down");
    if (!thread_.joinable()) {
      try {
        thread_ = std::thread([this] { run(); });
      } catch (const std::system_error& e) {
        throw Error(Code::out_of_memory, std::string("no thread for native work: ") + e.what());
      }
    }
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
}

void Lane::run() noexcept {
  cpu::give_way();
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopped_ || !queue_.empty(); });
    if (stopped_) return;
    std::unique_ptr<Job> job = std::move(queue_.front());
    queue_.pop_front();
    running_ = job.get();
    lock.unlock();
    job->work();
    lock.lock();
    running_ = nullptr;
    lock.unlock();
    if (job->wants_delivery()) engine_.send(std::move(job));
    job.reset();
    lock.lock();
  }
}

void Lane::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    if (running_ != nullptr) running_->cancel();
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  queue_.clear();
}

void Engine::create(napi_env env) {
  auto held = std::make_unique<std::shared_ptr<Engine>>(std::make_shared<Engine>(env));
  const auto release = [](napi_env, void* data, void*) {
    delete static_cast<std::shared_ptr<Engine>*>(data);
  };
  check(env, napi_set_instance_data(env, held.get(), release, nullptr));
  held.release();
}

Engine& Engine::of(napi_env env) {
  void* data = nullptr;
  if (napi_get_instance_data(env, &data) != napi_ok || data == nullptr)
    throw Error(Code::disposed, "the environment is shutting down");
  return **static_cast<std::shared_ptr<Engine>*>(data);
}

Engine::Engine(napi_env env) {
  cpu::run_at_once();
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, text(env, "crosscurrent"), 0, 1, nullptr,
                                             nullptr, this, call_js, &to_js_));
  check(env, napi_unref_threadsafe_function(env, to_js_));
  // Hooks run last in, first out: this one before the function's own.
  check(env, napi_add_env_cleanup_hook(env, [](void* data) { static_cast<Engine*>(data)->close(); }, this));
  static const bool registered = std::atexit(stop_all) == 0;
  (void)registered;
  const std::lock_guard lock(registry().mutex);
  registry().engines.push_back(this);
}

Engine::~Engine() {
  const std::lock_guard lock(registry().mutex);
  std::erase(registry().engines, this);
}

void Engine::stop_threads() noexcept {
  const std::lock_guard lock(stopping_);
  if (stopped_.exchange(true)) return;
  step_.stop();
  load_.stop();
}

void Engine::close() noexcept {
  stop_threads();
  napi_release_threadsafe_function(to_js_, napi_tsfn_abort);
}

void Engine::send(std::unique_ptr<Job> job) noexcept {
  if (stopped_) return;
  if (napi_call_threadsafe_function(to_js_, job.get(), napi_tsfn_nonblocking) == napi_ok) job.release();
}

napi_value Engine::start(napi_env env, LaneId lane, std::unique_ptr<Job> job) {
  const napi_value promise = job->promise(env);
  (lane == LaneId::step ? step_ : load_).post(std::move(job));
  if (pending_++ == 0) napi_ref_threadsafe_function(env, to_js_);
  return promise;
}

void Engine::start_drop(std::unique_ptr<Job> job) noexcept {
  try {
    load_.post(std::move(job));
  } catch (...) {
    // no lane any more: freed right here
  }
}

void Engine::delivered(napi_env env) noexcept {
  if (--pending_ == 0) napi_unref_threadsafe_function(env, to_js_);
}

void Engine::set_error_class(napi_env env, napi_value constructor) {
  napi_ref made;
  check(env, napi_create_reference(env, constructor, 1, &made));
  if (error_class_ != nullptr) napi_delete_reference(env, error_class_);
  error_class_ = made;
}

napi_value Engine::error_class(napi_env env) {
  napi_value constructor = nullptr;
  if (error_class_ != nullptr) check(env, napi_get_reference_value(env, error_class_, &constructor));
  return constructor;
}

}  // namespace crosscurrent::binding
