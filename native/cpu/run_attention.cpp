// flash_attention outside a session: keys and values become pages, the queries a step that looks back on
// them.
//
// The kernel writes the keys of a step's own tokens itself, where they are not in a cache already, so rows
// before them are put into the pages first.
// Attention to all keys is a step too: every query is a node of its own after all keys but the last, with the
// last as its own.
#include <algorithm>
#include <cstring>
#include <vector>

#include "../error.h"
#include "kernels.gen.h"
#include "run_op.h"

namespace crosscurrent::cpu {
namespace {

enum Operand : size_t { kQ, kK, kV, kSinks, kAlibi, kCache, kY };

[[noreturn]] void wrong(const char* operand, const std::string& expected, const std::string& got) {
  throw Error(Code::invalid_argument, std::string("flashAttention: ") + operand, expected, got);
}

int64_t rows_of_keys(const OpCall& call) {
  if (call.cache != nullptr) return call.cache->length();
  return call.first_key.empty() ? tensor_of(call, kQ).dims[0] : call.first_key.back();
}

// Everything of the step and what its spans point to.
struct Plan {
  std::vector<int32_t> first, first_key;
  std::vector<int32_t> length, slot, accepted_first, position, parent;
  std::vector<int32_t> key_row;  // of each query's own key
  Step step;

  explicit Plan(const OpCall& call)
      : first(ranges_of(call.first, tensor_of(call, kQ).dims[0])),
        first_key(ranges_of(call.first_key, rows_of_keys(call))) {
    const size_t seqs = first.size() - 1;
    for (size_t seq = 0; seq < seqs; ++seq) {
      const int32_t queries = first[seq + 1] - first[seq], keys = first_key[seq + 1] - first_key[seq];
      const int32_t before = call.is_causal ? keys - queries : keys - 1;
      length.push_back(before);
      slot.push_back(static_cast<int32_t>(seq));
      for (int32_t i = 0; i < queries; ++i) {
        step.sequence.push_back(static_cast<int32_t>(seq));
        position.push_back(call.is_causal ? before + i : before);
        parent.push_back(call.is_causal && i > 0 ? first[seq] + i - 1 : -1);
        key_row.push_back(first_key[seq] + position.back());
      }
    }
    accepted_first.assign(seqs + 1, 0);
    step.kind = StepClass::decode;  // a tree, where attention is to all keys
    step.t = first.back();
    step.seqs = static_cast<int32_t>(seqs);
    step.position = position;
    step.parent = parent;
    step.first = first;
    step.slot = slot;
    step.length = length;
    step.accepted_first = accepted_first;
  }

  int32_t tokens(size_t seq) const { return first[seq + 1] - first[seq]; }
  bool is_self() const {
    for (size_t i = 0; i < key_row.size(); ++i)
      if (key_row[i] != static_cast<int32_t>(i)) return false;
    return true;
  }
};

void run_on(const OpCall& call, Plan& plan, const KvPages& pages, Tensor k, Tensor v) {
  plan.step.max_pages = pages.max_pages();
  plan.step.pages = pages.table();
  const Tensor tensors[] = {tensor_of(call, kQ), k, v, tensor_of(call, kSinks), tensor_of(call, kAlibi),
                            tensor_of(call, kY)};
  const StateView state = pages.view();
  Workspace workspace;
  Context context{plan.step, workspace, call.threads, Precision::exact};
  kKernels[static_cast<size_t>(Opcode::flash_attention)](tensors, &state, call.attrs.data(), context);
}

Tensor rows_tensor(std::vector<float>& values, int64_t width) {
  Tensor tensor;
  tensor.data = reinterpret_cast<std::byte*>(values.data());
  tensor.rank = 2;
  tensor.dims[0] = static_cast<int64_t>(values.size()) / width;
  tensor.dims[1] = tensor.row_stride = width;
  return tensor;
}

void run_on_arrays(const OpCall& call, Plan& plan) {
  Tensor k = tensor_of(call, kK), v = tensor_of(call, kV);
  const int64_t width = k.dims[1], head_dim = call.attrs[0];
  std::vector<int64_t> capacities;
  for (size_t seq = 0; seq + 1 < plan.first.size(); ++seq)
    capacities.push_back(int64_t{plan.length[seq]} + plan.tokens(seq));
  KvPages pages(call.kv, width / head_dim, head_dim, capacities);
  for (size_t seq = 0; seq + 1 < plan.first.size(); ++seq)
    pages.write(static_cast<int>(seq), 0, plan.length[seq], k.f32(plan.first_key[seq]),
                v.f32(plan.first_key[seq]), call.threads);
  if (plan.is_self()) return run_on(call, plan, pages, k, v);
  std::vector<float> own_k, own_v;
  for (const int32_t row : plan.key_row) {
    own_k.insert(own_k.end(), k.f32(row), k.f32(row) + width);
    own_v.insert(own_v.end(), v.f32(row), v.f32(row) + width);
  }
  run_on(call, plan, pages, rows_tensor(own_k, width), rows_tensor(own_v, width));
}

// The queries are the last rows of the cache, whose keys and values are there: none are given to write.
void run_on_cache(const OpCall& call, Plan& plan) {
  const KvCache& cache = *call.cache;
  Tensor none;
  none.rank = 2;
  none.dims[0] = tensor_of(call, kQ).dims[0];
  none.dims[1] = cache.kv_heads() * cache.head_dim();
  run_on(call, plan, cache.pages(), none, none);
}

// At most this many queries see all of a cache, as each is a row behind its last.
void check_cache(const OpCall& call, int64_t heads_width) {
  const KvCache& cache = *call.cache;
  if (call.operands[kK] || call.operands[kV]) wrong("k", "nothing beside a cache", "an array");
  if (!call.first.empty() || !call.first_key.empty()) wrong("first", "one sequence with a cache", "several");
  if (cache.head_dim() != call.attrs[0])
    wrong("headDim", std::to_string(cache.head_dim()) + " (of the cache)", std::to_string(call.attrs[0]));
  if (heads_width / call.attrs[0] % cache.kv_heads() != 0)
    wrong("q", "heads that are a multiple of " + std::to_string(cache.kv_heads()),
          std::to_string(heads_width / call.attrs[0]));
  const int64_t queries = tensor_of(call, kQ).dims[0];
  if (!call.is_causal && queries > 1) wrong("causal", "true with a cache", "false");
  if (queries > cache.length())
    wrong("q", "at most " + std::to_string(cache.length()) + " rows (of the cache)", std::to_string(queries));
}

void check_arrays(const OpCall& call) {
  const int64_t width = tensor_of(call, kK).dims[1], keys = rows_of_keys(call);
  for (const size_t operand : {kK, kV}) {
    const OpOperand& given = call.operands[operand];
    const char* name = operand == kK ? "k" : "v";
    if (given.data == nullptr || given.dtype != DType::f32)
      wrong(name, "a Float32Array", given ? "another" : "nothing");
    if (given.elements / width != keys || given.elements % width != 0)
      wrong(name, std::to_string(keys) + " rows of " + std::to_string(width) + " elements",
            std::to_string(given.elements) + " elements");
  }
  const std::vector<int32_t> first = ranges_of(call.first, tensor_of(call, kQ).dims[0]);
  const std::vector<int32_t> first_key = ranges_of(call.first_key, keys);
  if (first_key.size() != first.size() || first_key.front() != 0)
    wrong("firstKey", std::to_string(first.size()) + " values, the first 0",
          std::to_string(first_key.size()) + " values");
  for (size_t seq = 0; seq + 1 < first.size(); ++seq) {
    const int64_t queries = first[seq + 1] - first[seq];
    const int64_t count = int64_t{first_key[seq + 1]} - first_key[seq];
    const int64_t least = call.is_causal ? queries : 1;
    if (count < least)
      wrong("firstKey",
            "at least " + std::to_string(least) + " keys for sequence " + std::to_string(seq) + " of " +
                std::to_string(queries) + " queries",
            std::to_string(count));
  }
}

}  // namespace

void check_attention(const OpCall& call) {
  const Tensor q = tensor_of(call, kQ);
  if (call.attrs[2] < 0) wrong("window", "0 or more", std::to_string(call.attrs[2]));
  if (!call.is_causal && call.attrs[2] > 0)
    wrong("window", "0 where causal is false", std::to_string(call.attrs[2]));
  if (call.cache != nullptr) return check_cache(call, q.dims[1]);
  if (!call.operands[kK]) wrong("k", "a Float32Array", "nothing");
  const int64_t heads = q.dims[1] / call.attrs[0], kv_heads = tensor_of(call, kK).dims[1] / call.attrs[0];
  if (heads % kv_heads != 0)
    wrong("q", "heads that are a multiple of " + std::to_string(kv_heads), std::to_string(heads));
  check_arrays(call);
}

void run_attention(const OpCall& call) {
  Plan plan(call);
  if (call.cache != nullptr)
    run_on_cache(call, plan);
  else
    run_on_arrays(call, plan);
}

}  // namespace crosscurrent::cpu
