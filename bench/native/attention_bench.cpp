// Times flash_attention at every level of this machine and with every type of cache, in turns, and writes
// JSON.
//
//   attention_bench [--threads N] [--rounds N]
//
// Decode is one token over a cache that other layers' caches follow, so that its keys come from memory;
// prefill is a prompt of 2048 tokens. 32 heads, 8 kv heads, head_dim 128.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "native/cpu/context.h"
#include "native/cpu/isa.h"
#include "native/cpu/kv_layout.h"
#include "native/cpu/pool.h"
#include "native/error.h"
#include "native/ops.gen.h"
#include "native/step.h"

namespace crosscurrent::cpu {
void flash_attention(const FlashAttention& a, Context& context);
}

namespace {

using namespace crosscurrent;
using namespace crosscurrent::cpu;
using Clock = std::chrono::steady_clock;

constexpr int64_t kHeads = 32, kKvHeads = 8, kHeadDim = 128, kPageTokens = 32;
constexpr int64_t kColdBytes = 300 << 20;
constexpr DType kTypes[] = {DType::f32, DType::f16, DType::bf16, DType::i8};

Tensor rows_of(std::vector<float>& values, int64_t width) {
  Tensor tensor;
  tensor.data = reinterpret_cast<std::byte*>(values.data());
  tensor.rank = 2;
  tensor.dims[0] = static_cast<int64_t>(values.size()) / width;
  tensor.dims[1] = tensor.row_stride = width;
  return tensor;
}

// `tokens` new ones after `length`, in one of several caches.
class Case {
 public:
  Case(DType dtype, int32_t length, int32_t tokens) : tokens_(tokens) {
    const KvLayout layout(dtype, kHeadDim, kPageTokens);
    page_bytes_ = kKvHeads * layout.head_bytes();
    pages_ = (length + tokens + kPageTokens - 1) / kPageTokens;
    copies_ = tokens > 1 ? 1 : std::max<int64_t>(1, kColdBytes / (pages_ * page_bytes_));
    cache_.resize(static_cast<size_t>(copies_ * pages_ * page_bytes_));
    std::mt19937 random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    q_.resize(static_cast<size_t>(tokens * kHeads * kHeadDim));
    k_.resize(static_cast<size_t>(tokens * kKvHeads * kHeadDim));
    for (float& value : q_) value = uniform(random);
    for (float& value : k_) value = uniform(random);
    v_ = k_;
    y_.resize(q_.size());
    for (int64_t page = 0; page < copies_ * pages_; ++page)
      for (int64_t head = 0; head < kKvHeads; ++head)
        for (int64_t token = 0; token < kPageTokens; ++token)
          layout.put(layout.row(cache_.data() + page * page_bytes_ + head * layout.head_bytes(), token),
                     k_.data() + head * kHeadDim, v_.data() + head * kHeadDim);
    a_.q = rows_of(q_, kHeads * kHeadDim);
    a_.k = rows_of(k_, kKvHeads * kHeadDim);
    a_.v = rows_of(v_, kKvHeads * kHeadDim);
    a_.y = rows_of(y_, kHeads * kHeadDim);
    a_.cache.elements = 2 * kKvHeads * kHeadDim;
    a_.cache.page_bytes = page_bytes_;
    a_.cache.page_tokens = kPageTokens;
    a_.cache.dtype = dtype;
    a_.head_dim = kHeadDim;
    a_.scale = 0.0883883f;
    a_.t = tokens;
    a_.heads = kHeads;
    a_.kv_heads = kKvHeads;
    length_ = {length};
    page_list_.resize(static_cast<size_t>(pages_));
    std::iota(page_list_.begin(), page_list_.end(), 0);
    for (int32_t i = 0; i < tokens; ++i) {
      position_.push_back(length + i);
      parent_.push_back(i - 1);
      step_.sequence.push_back(0);
    }
    first_ = {0, tokens};
    step_.kind = tokens > 1 ? StepClass::prefill : StepClass::decode;
    step_.t = tokens;
    step_.seqs = 1;
    step_.max_pages = static_cast<int32_t>(pages_);
    step_.position = position_;
    step_.parent = parent_;
    step_.first = first_;
    step_.slot = zero_;
    step_.length = length_;
    step_.accepted_first = zeros_;
    step_.pages = page_list_;
  }

  double run_us(int threads) {
    a_.cache.pages = cache_.data() + turn_++ % copies_ * pages_ * page_bytes_;
    workspace_.reset();
    Context context{step_, workspace_, threads, Precision::exact};
    const auto start = Clock::now();
    flash_attention(a_, context);
    return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }
  double bytes() const { return static_cast<double>(pages_ * page_bytes_); }
  double flops() const {
    const double keys = tokens_ * (static_cast<double>(length_[0]) + (tokens_ + 1) / 2.0);
    return 4 * keys * kHeads * kHeadDim;
  }

 private:
  int32_t tokens_;
  int64_t page_bytes_ = 0, pages_ = 0, copies_ = 1, turn_ = 0;
  std::vector<std::byte> cache_;
  std::vector<float> q_, k_, v_, y_;
  std::vector<int32_t> position_, parent_, first_, length_, page_list_;
  std::vector<int32_t> zero_ = {0}, zeros_ = {0, 0};
  Step step_;
  FlashAttention a_{};
  Workspace workspace_;
};

double part(std::vector<double> values, double at) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(at * static_cast<double>(values.size() - 1))];
}

}  // namespace

int main(int count, char** arguments) {
  int threads = 1, rounds = 9;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view name = arguments[i];
    (name == "--threads" ? threads : rounds) = std::atoi(arguments[i + 1]);
  }
  const Pool::StepScope hot;
  bool is_first = true;
  std::printf("[");
  for (const auto& [name, length, tokens] :
       {std::tuple{"decode 2048", 2047, 1}, std::tuple{"decode 32768", 32767, 1},
        std::tuple{"prefill 2048", 0, 2048}}) {
    for (const DType dtype : kTypes) {
      Case one(dtype, length, tokens);
      const auto isas = available_isas();
      std::vector<std::vector<double>> times(isas.size());
      for (int round = -1; round < (tokens > 1 ? std::min(rounds, 3) : rounds); ++round) {
        for (size_t i = 0; i < isas.size(); ++i) {
          if (isas[i] == Isa::v2 || isas[i] == Isa::avx_vnni) continue;
          set_isa(isas[i]);
          const double us = one.run_us(threads);
          if (round >= 0) times[i].push_back(us);
        }
      }
      for (size_t i = 0; i < isas.size(); ++i) {
        if (times[i].empty()) continue;
        const double median = part(times[i], 0.5);
        std::printf(
            "%s\n{\"case\": \"%s\", \"kv\": \"%s\", \"level\": \"%s\", \"threads\": %d, \"best_us\": %.1f, "
            "\"median_us\": %.1f, \"gbs\": %.1f, \"gflops\": %.1f}",
            is_first ? "" : ",", name, std::string(kv_name(dtype)).c_str(),
            std::string(isa_name(isas[i])).c_str(), threads, part(times[i], 0), median,
            tokens > 1 ? 0.0 : one.bytes() / median / 1e3, one.flops() / median / 1e3);
        is_first = false;
        std::fflush(stdout);
      }
    }
  }
  std::printf("\n]\n");
}
