// moe: y = Σ_k weights[k] · down[e_k] · (act(gate[e_k] x) · (up[e_k] x)), e_k = ids[k]
//
// The (token, k) pairs are sorted by expert; a task is one expert and at most a tile of its pairs. Their
// outputs stay apart until all are there and are then summed in order of k: so neither grouping nor threads
// change a bit.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <span>
#include <string>

#include "../error.h"
#include "../ops.gen.h"
#include "isa.h"
#include "matmul.h"
#include "split.h"

namespace crosscurrent::cpu {

void act_mul(const ActMul& a, Context& context);

namespace {

constexpr int64_t kMinTile = 32,
                  kMaxTile = 256;  // rows: enough to use a panel of weights well, few enough for L2

struct Task {
  int64_t expert, first, rows;  // rows are sorted pairs
};

struct Groups {
  const int32_t* tokens;  // [pairs] by place in the sorted order
  const int32_t* places;  // [t, top_k]
  std::span<const Task> tasks;
  int64_t most_rows;  // of a task
};

// Pairs in order of expert, tokens in order within one.
Groups group_by_expert(const Moe& a, const Context& context) {
  Workspace& workspace = context.workspace;
  const int64_t pairs = a.t * a.top_k;
  int64_t* next =
      workspace.take<int64_t>(a.experts + 1);  // counts, then where the next pair of an expert goes
  std::fill_n(next, a.experts + 1, 0);
  for (int64_t token = 0; token < a.t; ++token) {
    for (const int32_t expert : std::span(a.ids.i32(token), static_cast<size_t>(a.top_k))) {
      if (expert < 0 || expert >= a.experts)
        throw Error(Code::invalid_argument, "moe ids", "0.." + std::to_string(a.experts - 1),
                    std::to_string(expert));
      ++next[expert + 1];
    }
  }
  const int64_t tile = std::clamp(pairs / (4 * int64_t{std::max(context.threads, 1)}), kMinTile, kMaxTile);
  Task* tasks = workspace.take<Task>(pairs / tile + std::min(a.experts, pairs) + 1);
  size_t task_count = 0;
  int64_t most_rows = 0;
  for (int64_t expert = 0; expert < a.experts; ++expert) {
    next[expert + 1] += next[expert];
    for (int64_t first = next[expert]; first < next[expert + 1]; first += tile) {
      const int64_t rows = std::min(tile, next[expert + 1] - first);
      tasks[task_count++] = {expert, first, rows};
      most_rows = std::max(most_rows, rows);
    }
  }
  int32_t* tokens = workspace.take<int32_t>(pairs);
  int32_t* places = workspace.take<int32_t>(pairs);
  for (int64_t token = 0; token < a.t; ++token) {
    for (int64_t k = 0; k < a.top_k; ++k) {
      const int64_t place = next[a.ids.i32(token)[k]]++;
      places[token * a.top_k + k] = static_cast<int32_t>(place);
      tokens[place] = static_cast<int32_t>(token);
    }
  }
  return {tokens, places, {tasks, task_count}, most_rows};
}

// Working memory of one thread, for the rows of a task.
struct Scratch {
  float *x, *gate, *up;
  std::span<std::byte> matmul;
};

struct Experts {
  const Moe& a;
  Context& context;
  const Groups& groups;
  float* out;  // [pairs, dim]
  Activations activations;

  const PackedMatrix& matrix(const Tensor& weight) const {
    return *static_cast<const PackedMatrix*>(weight.packed);
  }

  Scratch take_scratch() const {
    Workspace& workspace = context.workspace;
    size_t bytes = 0;
    for (const Tensor* weight : {&a.gate, &a.up, &a.down})
      if (*weight)
        bytes = std::max(bytes, matmul_scratch_bytes(matrix(*weight).plan, groups.most_rows, activations));
    Scratch scratch;
    scratch.x = workspace.take<float>(groups.most_rows * a.dim);
    scratch.gate = workspace.take<float>(groups.most_rows * a.ff);
    scratch.up = a.up ? workspace.take<float>(groups.most_rows * a.ff) : nullptr;
    scratch.matmul = {workspace.take<std::byte>(static_cast<int64_t>(bytes)), bytes};
    return scratch;
  }

  void multiply(const Tensor& weight, const Task& task, const float* x, int64_t x_stride, float* y,
                int64_t y_stride, const Scratch& scratch) const {
    matmul({.weight = &matrix(weight),
            .expert = task.expert,
            .x = x,
            .x_stride = x_stride,
            .m = task.rows,
            .y = y,
            .y_stride = y_stride,
            .activations = activations,
            .scratch = scratch.matmul,
            .threads = context.threads});
  }

  void run(const Task& task, const Scratch& scratch) const {
    for (int64_t row = 0; row < task.rows; ++row)
      std::memcpy(scratch.x + row * a.dim, a.x.f32(groups.tokens[task.first + row]),
                  static_cast<size_t>(a.dim) * sizeof(float));
    multiply(a.gate, task, scratch.x, a.dim, scratch.gate, a.ff, scratch);
    if (a.up) multiply(a.up, task, scratch.x, a.dim, scratch.up, a.ff, scratch);
    ActMul act{};
    act.gate = act.y = hidden(scratch.gate, task.rows);
    if (a.up) act.up = hidden(scratch.up, task.rows);
    act.activation = a.activation;
    act.rows = task.rows;
    act.ff = a.ff;
    act_mul(act, context);
    multiply(a.down, task, scratch.gate, a.ff, out + task.first * a.dim, a.dim, scratch);
  }

  Tensor hidden(float* data, int64_t rows) const {
    Tensor tensor;
    tensor.data = reinterpret_cast<std::byte*>(data);
    tensor.rank = 2;
    tensor.dims[0] = rows;
    tensor.dims[1] = tensor.row_stride = a.ff;
    return tensor;
  }

  // Tasks over the pool; with fewer of them than threads one after the other, each over the pool itself.
  void run_all() const {
    const int threads = Pool::instance().threads_for(context.threads);
    const auto tasks = static_cast<int>(groups.tasks.size());
    if (tasks < threads || threads == 1) {
      const Scratch scratch = take_scratch();
      for (const Task& task : groups.tasks) run(task, scratch);
      return;
    }
    Scratch* scratches = context.workspace.take<Scratch>(threads);
    for (int i = 0; i < threads; ++i) scratches[i] = take_scratch();
    std::atomic<int> next{0};
    const Isa isa = active_isa();
    Pool::instance().run(threads, threads, [&](int chunk) {
      const IsaScope level(isa);
      for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < tasks;)
        run(groups.tasks[static_cast<size_t>(i)], scratches[chunk]);
    });
  }

  void sum(int64_t token) const {
    const float* weights = a.weights.f32(token);
    const int32_t* places = groups.places + token * a.top_k;
    float* y = a.y.f32(token);
    std::fill_n(y, a.dim, 0.0f);
    for (int64_t k = 0; k < a.top_k; ++k) {
      const float* row = out + places[k] * a.dim;
      for (int64_t i = 0; i < a.dim; ++i) y[i] += weights[k] * row[i];
    }
  }
};

void check_weight(const char* operand, const PackedMatrix& matrix, int64_t experts, int64_t n, int64_t k) {
  const PackPlan& plan = matrix.plan;
  if (plan.experts == experts && plan.n == n && plan.k == k) return;
  const auto shape = [](int64_t e, int64_t rows, int64_t columns) {
    return "[" + std::to_string(e) + ", " + std::to_string(rows) + ", " + std::to_string(columns) + "]";
  };
  throw Error(Code::invalid_program, operand, shape(experts, n, k), shape(plan.experts, plan.n, plan.k));
}

}  // namespace

void moe(const Moe& a, Context& context) {
  const Groups groups = group_by_expert(a, context);
  const Activations activations =
      context.precision == Precision::exact ? Activations::exact : Activations::fast;
  const Experts experts{a, context, groups, context.workspace.take<float>(a.t * a.top_k * a.dim),
                        activations};
  check_weight("moe gate", experts.matrix(a.gate), a.experts, a.ff, a.dim);
  if (a.up) check_weight("moe up", experts.matrix(a.up), a.experts, a.ff, a.dim);
  check_weight("moe down", experts.matrix(a.down), a.experts, a.dim, a.ff);
  experts.run_all();
  for_ranges(context, a.t, a.top_k * a.dim / 4, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) experts.sum(token);
  });
}

}  // namespace crosscurrent::cpu
