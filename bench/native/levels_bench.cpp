// Times the kernels of recurrences, activations and sampling at each instruction-set level, on one thread.
//
//   levels_bench [seconds a case]
//
// Levels take turns within a case, so that what the machine does meanwhile falls on all of them. One JSON
// object a line, as bench/results/matmul-levels-*.json has them.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "native/cpu/context.h"
#include "native/cpu/isa.h"
#include "native/cpu/state_kernels.h"
#include "native/ops.gen.h"
#include "native/step.h"

namespace crosscurrent::cpu {
void act_mul(const ActMul& a, Context& context);
}

namespace {

using namespace crosscurrent;
using namespace crosscurrent::cpu;
using Clock = std::chrono::steady_clock;

// Memory of a session begins on a line.
template <class T>
struct LineAllocator {
  using value_type = T;
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
  }
  void deallocate(T* memory, size_t) { ::operator delete(memory, std::align_val_t{64}); }
  bool operator==(const LineAllocator&) const { return true; }
};
using Floats = std::vector<float, LineAllocator<float>>;

Floats floats(size_t count, float low, float high) {
  static std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(low, high);
  Floats values(count);
  for (float& value : values) value = uniform(random);
  return values;
}

struct Case {
  std::string kernel, label;
  double flops;
  std::function<void()> run;
};

void time_case(const Case& one, double seconds) {
  const auto levels = available_isas();
  std::vector<std::vector<double>> times(levels.size());
  const auto start = Clock::now();
  const auto since = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  while (times.back().size() < 5 || since(start) < seconds) {
    for (size_t i = 0; i < levels.size(); ++i) {
      const IsaScope level(levels[i]);
      one.run();  // into the caches, and the core's clock for this width
      const auto before = Clock::now();
      one.run();
      times[i].push_back(since(before));
    }
  }
  for (size_t i = 0; i < levels.size(); ++i) {
    std::sort(times[i].begin(), times[i].end());
    const double best = times[i].front(), median = times[i][times[i].size() / 2];
    std::printf(
        "{\"level\": \"%s\", \"dtype\": \"%s\", \"case\": \"%s\", \"best_us\": %.1f, \"median_us\": %.1f, "
        "\"gflops_best\": %.2f}\n",
        std::string(isa_name(levels[i])).c_str(), one.kernel.c_str(), one.label.c_str(), best * 1e6,
        median * 1e6, one.flops / best / 1e9);
  }
  std::fflush(stdout);
}

Case scan_case(int64_t t, int64_t channels, int64_t states) {
  struct Data {
    Floats x, dt, b, c, z, y, a, dt_bias, d, h, tiles, a_tiles;
  };
  auto data = std::make_shared<Data>();
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  *data = {floats(size(t * channels), -1, 1),
           floats(size(t * channels), -4, 1),
           floats(size(t * states), -1, 1),
           floats(size(t * states), -1, 1),
           floats(size(t * channels), -3, 3),
           Floats(size(t * channels)),
           floats(size(channels * states), -4, -0.1f),
           floats(size(channels), -1, 1),
           floats(size(channels), -1, 1),
           floats(size(channels * states), -1, 1),
           Floats(size(kScanChannels * states)),
           Floats(size(kScanChannels * states))};
  return {"selective_scan",
          "t " + std::to_string(t) + ", " + std::to_string(channels) + " x " + std::to_string(states),
          7.0 * static_cast<double>(t * channels * states), [=] {
            Data& v = *data;
            const StateKernels& kernels = state_kernels();
            for (int64_t channel = 0; channel < channels; channel += kScanChannels) {
              const int count = static_cast<int>(std::min<int64_t>(kScanChannels, channels - channel));
              kernels.scan_load(v.a.data() + channel * states, states, count, states, 1.44269504f,
                                v.a_tiles.data());
              kernels.scan_load(v.h.data() + channel * states, states, count, states, 1.0f, v.tiles.data());
              ScanRows rows{};
              rows.x = v.x.data() + channel;
              rows.dt = v.dt.data() + channel;
              rows.b = v.b.data();
              rows.c = v.c.data();
              rows.z = v.z.data() + channel;
              rows.y = v.y.data() + channel;
              rows.x_stride = rows.dt_stride = rows.z_stride = rows.y_stride = channels;
              rows.b_stride = rows.c_stride = states;
              rows.count = t;
              rows.states = states;
              rows.channels = count;
              rows.a = v.a_tiles.data();
              rows.dt_bias = v.dt_bias.data() + channel;
              rows.d = v.d.data() + channel;
              rows.from = rows.to = v.tiles.data();
              kernels.scan(&rows);
              kernels.scan_store(v.tiles.data(), count, states, v.h.data() + channel * states);
            }
          }};
}

Case ssd_case(int64_t t, int64_t heads, int64_t head_dim, int64_t states) {
  struct Data {
    Floats x, b, c, delta, decay, y, s;
  };
  auto data = std::make_shared<Data>();
  const auto size = [](int64_t n) { return static_cast<size_t>(n); };
  *data = {floats(size(t * heads * head_dim), -1, 1),
           floats(size(t * states), -1, 1),
           floats(size(t * states), -1, 1),
           floats(size(t * heads), 0, 1),
           floats(size(t * heads), 0.3f, 0.99f),
           Floats(size(t * heads * head_dim)),
           floats(size(heads * head_dim * states), -1, 1)};
  return {"ssd",
          "t " + std::to_string(t) + ", " + std::to_string(heads) + " heads x " + std::to_string(head_dim) +
              " x " + std::to_string(states),
          5.0 * static_cast<double>(t * heads * head_dim * states), [=] {
            constexpr int64_t kRows = 32;
            Data& v = *data;
            for (int64_t row = 0; row < heads * head_dim; row += kRows) {
              SsdRows rows{};
              rows.x = v.x.data() + row;
              rows.b = v.b.data();
              rows.c = v.c.data();
              rows.y = v.y.data() + row;
              rows.x_stride = rows.y_stride = heads * head_dim;
              rows.b_stride = rows.c_stride = states;
              rows.delta = v.delta.data() + row / head_dim;
              rows.decay = v.decay.data() + row / head_dim;
              rows.delta_stride = heads;
              rows.count = t;
              rows.rows = kRows;
              rows.states = states;
              rows.d = 0.5f;
              rows.from = rows.to = v.s.data() + row * states;
              state_kernels().ssd(&rows);
            }
          }};
}

Case conv_case(int64_t t, int64_t channels) {
  auto x = std::make_shared<Floats>(floats(static_cast<size_t>((t + 3) * channels), -1, 1));
  auto weight = std::make_shared<Floats>(floats(static_cast<size_t>(4 * channels), -1, 1));
  auto y = std::make_shared<Floats>(static_cast<size_t>(t * channels));
  return {"causal_conv1d", "t " + std::to_string(t) + ", " + std::to_string(channels) + " channels, 4 taps",
          8.0 * static_cast<double>(t * channels), [=] {
            for (int64_t channel = 0; channel < channels; channel += 256) {
              for (int64_t i = 0; i < t; ++i) {
                ConvRow row{};
                for (int64_t j = 0; j < 4; ++j) row.taps[j] = x->data() + (i + j) * channels + channel;
                row.weight = weight->data() + channel;
                row.weight_stride = channels;
                row.y = y->data() + i * channels + channel;
                row.count = std::min<int64_t>(256, channels - channel);
                row.kernel = 4;
                row.activation = kActivationSilu;
                state_kernels().conv_row(&row);
              }
            }
          }};
}

Case activation_case(int64_t rows, int64_t ff) {
  auto gate = std::make_shared<Floats>(floats(static_cast<size_t>(rows * ff), -6, 6));
  auto up = std::make_shared<Floats>(floats(static_cast<size_t>(rows * ff), -1, 1));
  auto y = std::make_shared<Floats>(static_cast<size_t>(rows * ff));
  return {"act_mul", std::to_string(rows) + " x " + std::to_string(ff) + ", silu",
          8.0 * static_cast<double>(rows * ff), [=] {
            const auto tensor = [&](Floats& values) {
              Tensor tensor;
              tensor.data = reinterpret_cast<std::byte*>(values.data());
              tensor.rank = 2;
              tensor.dims[0] = rows;
              tensor.dims[1] = tensor.row_stride = ff;
              return tensor;
            };
            ActMul op{};
            op.gate = tensor(*gate);
            op.up = tensor(*up);
            op.y = tensor(*y);
            op.activation = Activation::silu;
            op.rows = rows;
            op.ff = ff;
            Step step;
            Workspace workspace;
            Context context{step, workspace, 1, Precision::int8};
            act_mul(op, context);
          }};
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 1;
  for (const Case& one : {scan_case(2048, 1536, 16), scan_case(1, 4096, 16), ssd_case(2048, 64, 64, 128),
                          ssd_case(1, 64, 64, 128), conv_case(2048, 1536), activation_case(32, 8192)})
    time_case(one, seconds);
  return 0;
}
