// sample: one block a row. The order of logits is never made: what top_k, top_p, min_p and the draw ask for
// is the place where a sum over the falling logits passes a bound, and that is found by narrowing an interval
// of logits, seven bounds a pass over the row (from L2). Sums are f64 in a fixed order: no atomics.
#include <cmath>

#include "ptx.cuh"
#include "sample.h"
#include "sample_philox.cuh"

namespace crosscurrent::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBounds = 7;  // of a pass: an interval becomes an eighth
constexpr unsigned kAll = 0xFFFFFFFF;

// Rising with the logit; both zeros are one number.
__device__ __forceinline__ uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Shared {
  double sums[kBounds][kWarps];
  double total[kBounds];
  int counts[kWarps];
  float most[kWarps];
  int place;
};

// What a prefix of the falling order holds. Ties at the last logit go to the lower id.
struct Prefix {
  uint32_t key;  // of its last logit
  double above;  // sum over larger ones
  double ties;   // how many of that logit are in it
};

class Row {
 public:
  __device__ Row(const float* logits, int vocab, float max, float temperature, Shared& shared)
      : logits_(logits), vocab_(vocab), max_(max), temperature_(temperature), shared_(shared) {}

  __device__ float weight(float logit) const { return expf((logit - max_) / temperature_); }
  __device__ float weight_of_key(uint32_t key) const {
    return weight(__uint_as_float(key & 0x80000000u ? key & 0x7FFFFFFFu : ~key));
  }

  // Sums of value(logit) over logits of key bounds[i] or more; the order of additions is fixed.
  template <int kCount, class Value>
  __device__ void sums(const uint32_t (&bounds)[kCount], const Value& value, double (&totals)[kCount]) {
    double mine[kCount] = {};
    for (int i = threadIdx.x; i < vocab_; i += kThreads) {
      const float logit = logits_[i];
      const uint32_t key = key_of(logit);
      if (key < bounds[0]) continue;
      const double v = value(logit);
#pragma unroll
      for (int j = 0; j < kCount; ++j)
        if (key >= bounds[j]) mine[j] += v;
    }
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
#pragma unroll
      for (int step = 16; step > 0; step /= 2) mine[j] += __shfl_xor_sync(kAll, mine[j], step);
      if (lane == 0) shared_.sums[j][warp] = mine[j];
    }
    __syncthreads();
    if (threadIdx.x < kCount) {
      double total = 0;
      for (int i = 0; i < kWarps; ++i) total += shared_.sums[threadIdx.x][i];
      shared_.total[threadIdx.x] = total;
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kCount; ++j) totals[j] = shared_.total[j];
    __syncthreads();
  }

  // The largest key whose sum of value passes(sum); `all` is the sum over everything, which passes. `above`
  // becomes the sum over larger keys.
  template <class Value, class Passes>
  __device__ uint32_t find(const Value& value, const Passes& passes, double& above) {
    uint64_t low = 0, high = uint64_t{key_of(max_)} + 1;  // low passes, high does not
    above = 0;
    while (high - low > 1) {
      uint32_t bounds[kBounds];
      double totals[kBounds];
      const uint64_t width = high - low;
#pragma unroll
      for (int j = 0; j < kBounds; ++j) {
        const uint64_t bound = low + width * (j + 1) / (kBounds + 1);
        bounds[j] = static_cast<uint32_t>(bound > low ? bound : low + 1);
      }
      sums(bounds, value, totals);
      uint64_t next_low = low, next_high = high;
#pragma unroll
      for (int j = 0; j < kBounds; ++j) {
        if (passes(totals[j])) {
          next_low = bounds[j];
        } else if (bounds[j] < next_high) {
          next_high = bounds[j];
          above = totals[j];
        }
      }
      low = next_low;
      high = next_high;
    }
    return static_cast<uint32_t>(low);
  }

  // The id of the tie number `tie` (from 0) among logits of this key, or of the last one there is.
  __device__ int id_of(uint32_t key, int64_t tie) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int each = (vocab_ + kWarps - 1) / kWarps, begin = warp * each, end = min(vocab_, begin + each);
    const auto ties_at = [&](int start) {
      const int i = start + lane;
      return __ballot_sync(kAll, i < end && key_of(logits_[i]) == key);
    };
    int count = 0;
    for (int start = begin; start < end; start += 32) count += __popc(ties_at(start));
    if (lane == 0) shared_.counts[warp] = count;
    __syncthreads();
    int64_t before = 0, all = 0;
    for (int i = 0; i < kWarps; ++i) {
      if (i < warp) before += shared_.counts[i];
      all += shared_.counts[i];
    }
    tie = tie < all ? tie : all - 1;
    if (tie >= before && tie < before + count) {
      for (int start = begin; start < end; start += 32) {
        const unsigned ties = ties_at(start);
        const int here = __popc(ties);
        if (tie - before < here) {
          const auto wanted = static_cast<int>(tie - before);
          const bool mine = (ties >> lane & 1) != 0 && __popc(ties & ((1u << lane) - 1)) == wanted;
          if (mine) shared_.place = start + lane;
          break;
        }
        before += here;
      }
    }
    __syncthreads();
    return shared_.place;
  }

 private:
  const float* logits_;
  int vocab_;
  float max_, temperature_;
  Shared& shared_;
};

// The largest logit; NaN where there is one.
__device__ float max_of_row(const float* logits, int vocab, Shared& shared) {
  float most = -INFINITY;
  bool bad = false;
  for (int i = threadIdx.x; i < vocab; i += kThreads) {
    bad = bad || isnan(logits[i]);
    most = fmaxf(most, logits[i]);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(kAll, most, step));
  if (__any_sync(kAll, bad)) most = NAN;
  if (threadIdx.x % 32 == 0) shared.most[threadIdx.x / 32] = most;
  __syncthreads();
  most = -INFINITY;
  for (int i = 0; i < kWarps; ++i) {
    bad = bad || isnan(shared.most[i]);
    most = fmaxf(most, shared.most[i]);
  }
  return __syncthreads_or(bad) ? NAN : most;
}

// Bias, then penalties, on a copy of the row. `counts` is zero before and after.
__device__ void adjust(const SampleArgs& a, int64_t row, const SampleOptions& o, float* copy, int* counts) {
  for (int i = threadIdx.x; i < a.vocab; i += kThreads) copy[i] = a.logits[row * a.logits_stride + i];
  __syncthreads();
  const auto known = [&](int id) { return id >= 0 && id < a.vocab; };
  if (a.bias_first != nullptr) {
    const int begin = a.bias_first[row], end = a.bias_first[row + 1];
    for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
      const int id = a.bias_ids[i];
      bool is_first = known(id);
      for (int j = begin; j < i && is_first; ++j) is_first = a.bias_ids[j] != id;
      if (!is_first) continue;
      for (int j = i; j < end; ++j)  // in order, where an id comes more than once
        if (a.bias_ids[j] == id) copy[id] += a.bias_values[j];
    }
    __syncthreads();
  }
  const bool penalizes = o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0;
  if (a.history_first == nullptr || !penalizes) return;
  const int begin = a.history_first[row], end = a.history_first[row + 1];
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads)
    if (known(a.history[i])) atomicAdd(counts + a.history[i], 1);
  __syncthreads();
  for (int i = begin + static_cast<int>(threadIdx.x); i < end; i += kThreads) {
    const int id = a.history[i];
    const int count = known(id) ? atomicExch(counts + id, 0) : 0;  // each token once
    if (count == 0) continue;
    float logit = copy[id];
    if (o.repetition_penalty != 1)
      logit = logit > 0 ? logit / o.repetition_penalty : logit * o.repetition_penalty;
    copy[id] =
        logit - __fadd_rn(o.presence_penalty, __fmul_rn(o.frequency_penalty, static_cast<float>(count)));
  }
  __syncthreads();
}

__device__ bool is_adjusted(const SampleArgs& a, int64_t row, const SampleOptions& o) {
  const bool has_bias = a.bias_first != nullptr && a.bias_first[row] < a.bias_first[row + 1];
  const bool has_history = a.history_first != nullptr && a.history_first[row] < a.history_first[row + 1];
  return has_bias ||
         (has_history && (o.repetition_penalty != 1 || o.presence_penalty != 0 || o.frequency_penalty != 0));
}

__global__ void __launch_bounds__(kThreads)
    sample_kernel(const __grid_constant__ SampleArgs a, float* copies, int* counts) {
  __shared__ Shared shared;
  launch_dependents();
  grid_dependency_wait();
  const int64_t row = blockIdx.x;
  const auto vocab = static_cast<int>(a.vocab);
  const SampleOptions o = a.options[row];
  const float* logits = a.logits + row * a.logits_stride;
  if (is_adjusted(a, row, o)) {
    adjust(a, row, o, copies + row * a.vocab, counts + row * a.vocab);
    logits = copies + row * a.vocab;
  }
  const float max = max_of_row(logits, vocab, shared);
  if (!isfinite(max)) {
    if (threadIdx.x == 0) a.ids[row] = -1;
    return;
  }
  Row view(logits, vocab, max, o.temperature, shared);
  if (o.temperature == 0) {
    const int id = view.id_of(key_of(max), 0);
    if (threadIdx.x == 0) a.ids[row] = id;
    return;
  }
  const auto weight = [&](float logit) { return static_cast<double>(view.weight(logit)); };
  // Sum of the weights that top_k leaves, then of those that top_p and min_p leave: kept ones are a prefix of
  // the falling order, so the smaller sum belongs to the shorter prefix.
  double kept;
  const bool has_top_k = o.top_k > 0 && o.top_k < vocab;
  if (has_top_k) {
    double above;
    const uint32_t key = view.find([](float) { return 1.0; }, [&](double n) { return n >= o.top_k; }, above);
    const uint32_t larger[1] = {key + 1};
    double sum[1];
    view.sums(larger, weight, sum);
    kept = sum[0] + (o.top_k - above) * view.weight_of_key(key);
  } else {
    const uint32_t all[1] = {0};
    double sum[1];
    view.sums(all, weight, sum);
    kept = sum[0];
  }
  double shortest = kept;
  if (o.top_p < 1) {
    const double enough = o.top_p * kept;
    double above;
    const uint32_t key = view.find(weight, [&](double sum) { return sum >= enough; }, above);
    const double each = view.weight_of_key(key);
    const double ties = each > 0 ? fmax(1.0, ceil((enough - above) / each)) : 1.0;
    shortest = fmin(shortest, above + ties * each);
  }
  if (o.min_p > 0) {
    double mine[1];
    const uint32_t all[1] = {0};
    view.sums(all, [&](float logit) { return view.weight(logit) >= o.min_p ? weight(logit) : 0.0; }, mine);
    shortest = fmin(shortest, fmax(mine[0], 1.0));  // the largest stays, whatever min_p is
  }
  const double target = philox_word(o.seed_low, o.seed_high, o.position) * 0x1p-32 * shortest;
  double above;
  const uint32_t key = view.find(weight, [&](double sum) { return sum > target; }, above);
  const double each = view.weight_of_key(key);
  const auto tie = static_cast<int64_t>(each > 0 ? floor((target - above) / each) : 0.0);
  const int id = view.id_of(key, tie > 0 ? tie : 0);
  if (threadIdx.x == 0) a.ids[row] = id;
}

void check_args(const SampleArgs& a) {
  check(a.rows >= 0 && a.rows < int64_t{1} << 31, "sample: rows", "0 to 2^31 - 1", a.rows);
  check(a.vocab >= 1 && a.vocab < int64_t{1} << 31, "sample: vocab", "1 to 2^31 - 1", a.vocab);
}

bool adjusts(const SampleArgs& a) { return a.history_first != nullptr || a.bias_first != nullptr; }

}  // namespace

size_t sample_workspace(const SampleArgs& a) {
  check_args(a);
  return adjusts(a) ? static_cast<size_t>(a.rows * a.vocab) * 8 : 0;
}

void sample(const SampleArgs& a, Workspace workspace, cudaStream_t stream) {
  const size_t bytes = sample_workspace(a);
  check(a.logits_stride >= a.vocab, "sample: logits_stride", "at least " + std::to_string(a.vocab),
        a.logits_stride);
  if (a.rows == 0) return;
  check_pointer("sample: logits", a.logits, 4);
  check_pointer("sample: ids", a.ids, 4);
  check_pointer("sample: options", a.options, 4);
  if (a.history_first != nullptr) check_pointer("sample: history", a.history, 4);
  if (a.bias_first != nullptr) {
    check_pointer("sample: bias_ids", a.bias_ids, 4);
    check_pointer("sample: bias_values", a.bias_values, 4);
  }
  check_workspace("sample: workspace", workspace, bytes);
  auto* copies = static_cast<float*>(workspace.data);
  int* counts = adjusts(a) ? reinterpret_cast<int*>(copies + a.rows * a.vocab) : nullptr;
  launch(sample_kernel,
         {.grid = dim3(static_cast<unsigned>(a.rows)),
          .block = dim3(kThreads),
          .stream = stream,
          .dependent = current_arch().has_dependent_launch()},
         a, copies, counts);
}

}  // namespace crosscurrent::cuda
