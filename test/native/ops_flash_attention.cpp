#include "attention_model.h"

namespace crosscurrent::test {
namespace {

std::vector<int32_t> some_ids(int count, uint64_t seed) {
  Numbers numbers(seed);
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back(numbers.below(1000));
  return ids;
}

std::vector<Token> path_of(const std::vector<int32_t>& ids, size_t count) {
  std::vector<Token> path;
  for (size_t i = 0; i < count; ++i) path.push_back({ids[i], static_cast<int32_t>(i)});
  return path;
}

std::vector<int32_t> part(const std::vector<int32_t>& ids, size_t begin, size_t end) {
  return {ids.begin() + static_cast<ptrdiff_t>(begin), ids.begin() + static_cast<ptrdiff_t>(end)};
}

using Outputs = std::vector<std::vector<float>>;

void expect_same(const Outputs& got, const Outputs& expected, const std::string& what) {
  expect_equal(got.size(), expected.size(), what + ": rows");
  for (size_t i = 0; i < got.size(); ++i)
    expect_same_bits(got[i].data(), expected[i].data(), static_cast<int64_t>(got[i].size()),
                     what + ", row " + std::to_string(i));
}

// Feeds `ids` in pieces of the given sizes (the last one repeats).
Outputs feed(AttentionModel& model, const std::vector<int32_t>& ids, const std::vector<size_t>& pieces,
             int threads = 1) {
  Outputs all;
  for (size_t at = 0, piece = 0; at < ids.size(); ++piece) {
    const size_t end = std::min(ids.size(), at + pieces[std::min(piece, pieces.size() - 1)]);
    for (auto& row : model.run(StepClass::prefill,
                               {{.length = static_cast<int32_t>(at), .ids = part(ids, at, end)}}, threads))
      all.push_back(std::move(row));
    at = end;
  }
  return all;
}

// Decode steps of one token, each accepted by the next, from token `begin` on.
Outputs decode(AttentionModel& model, const std::vector<int32_t>& ids, size_t begin = 0) {
  Outputs all;
  for (size_t i = begin; i < ids.size(); ++i) {
    SequenceInput input{.length = static_cast<int32_t>(i == begin ? i : i - 1), .ids = {ids[i]}};
    if (i > begin) input.accepted = {0};
    all.push_back(model.run(StepClass::decode, {input})[0]);
  }
  return all;
}

const AttentionShape kShapes[] = {
    {1, 1, 1},
    {3, 1, 5},
    {4, 2, 8, 0, 0, true},
    {9, 3, 64},
    {7, 1, 31, 5},
    {6, 2, 33, 33, 7.5f},
    {5, 5, 16, 1},
    {8, 2, 40, 0, 0, true, 16},
    {2, 1, 72, 31, 0, true, 5},
    {26, 2, 8, 0, 2.0f, false, 64},
    {25, 1, 4, 40, 0, false, 1},
    {8, 1, 80},
};

// Every shape with every type of cache.
std::vector<AttentionShape> all_shapes() {
  std::vector<AttentionShape> shapes;
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    for (AttentionShape shape : kShapes) {
      shape.dtype = dtype;
      shape.has_alibi = shape.head_dim % 2 == 1;
      shapes.push_back(shape);
    }
  }
  return shapes;
}

const Test reference("flash_attention: f64 reference, prompts of 1 … 70 tokens", [] {
  at_every_level([](const std::string& level) {
    for (const AttentionShape& shape : all_shapes()) {
      const std::vector<int> lengths =
          shape.dtype == DType::f32 ? std::vector{1, 31, 32, 33, 70} : std::vector{33};
      for (const int length : lengths) {
        AttentionModel model(shape, 128);
        const auto ids = some_ids(length, 3);
        const Outputs y = feed(model, ids, {70});
        for (size_t i = 0; i < y.size(); i += 3)
          model.expect_reference(y[i], path_of(ids, i + 1), level + ", " + shape.show());
      }
    }
  });
});

const Test chunks(
    "flash_attention: 37 tokens at once, in pieces, one by one and decoded have the same bits", [] {
      at_every_level([](const std::string& level) {
        for (const AttentionShape& shape : all_shapes()) {
          const auto ids = some_ids(37, 11);
          const auto fresh = [&] { return AttentionModel(shape); };
          AttentionModel once = fresh(), pieces = fresh(), tokens = fresh(), decoded = fresh(),
                         threaded = fresh();
          const Outputs expected = feed(once, ids, {37});
          expect_same(feed(pieces, ids, {5, 1, 20, 3}), expected, level + ", pieces, " + shape.show());
          expect_same(feed(tokens, ids, {1}), expected, level + ", token by token, " + shape.show());
          expect_same(decode(decoded, ids), expected, level + ", decoded, " + shape.show());
          expect_same(feed(threaded, ids, {37}, 2), expected, level + ", two threads, " + shape.show());
        }
      });
    });

const Test splits("flash_attention: beyond one split of 1024 keys: reference, chunking, threads", [] {
  at_every_level([](const std::string& level) {
    for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
      const int window = dtype == DType::f16 ? 700 : 0;
      const AttentionShape shape{.heads = 4, .kv_heads = 2, .head_dim = 8, .window = window, .dtype = dtype};
      const auto ids = some_ids(2100, 17);
      AttentionModel once(shape, 80), pieces(shape, 80);
      const Outputs expected = feed(once, ids, {2100});
      expect_same(feed(pieces, ids, {700, 324, 1, 600, 31}, 2), expected, level + ", pieces");
      for (const size_t i : {1023u, 1024u, 1600u, 2047u, 2099u})
        once.expect_reference(expected[i], path_of(ids, i + 1), level);
      // few tiles and many splits: the splits are shared among threads
      const SequenceInput last{.length = 2099, .ids = {ids.back()}};
      for (const int threads : {1, 2, 5})
        expect_same(once.run(StepClass::decode, {last}, threads), {expected.back()}, level + ", threads");
    }
  });
});

// A tree of 8 nodes under the last committed token, as parents; and its paths.
const std::vector<int32_t> kTree = {-1, -1, 0, 1, 1, 3, 2, 5};

std::vector<int32_t> path_to(int32_t node) {
  std::vector<int32_t> path;
  for (; node >= 0; node = kTree[static_cast<size_t>(node)]) path.insert(path.begin(), node);
  return path;
}

const Test trees("flash_attention: a node of a tree has the bits of plain decoding along its path", [] {
  at_every_level([](const std::string& level) {
    for (const AttentionShape& shape : all_shapes()) {
      for (const size_t prompt : {1u, 29u, 32u, 60u}) {
        const auto ids = some_ids(static_cast<int>(prompt), 23), drafts = some_ids(8, 29);
        AttentionModel model(shape, 80);
        feed(model, ids, {prompt});
        const AttentionModel prompted = model;
        const Outputs tree = model.run(
            StepClass::decode, {{.length = static_cast<int32_t>(prompt), .ids = drafts, .parents = kTree}});
        for (int32_t node = 0; node < 8; ++node) {
          auto plain_ids = ids;
          for (const int32_t step : path_to(node)) plain_ids.push_back(drafts[static_cast<size_t>(step)]);
          AttentionModel plain = prompted;
          expect_same({tree[static_cast<size_t>(node)]}, {decode(plain, plain_ids, prompt).back()},
                      level + ", node " + std::to_string(node) + ", " + shape.show());
        }
      }
    }
  });
});

const Test rollback(
    "flash_attention: a partial accept, then a step without drafts, equals plain decoding", [] {
      at_every_level([](const std::string& level) {
        for (const AttentionShape& shape : all_shapes()) {
          for (const auto& accepted : {std::vector<int32_t>{}, {0}, {1}, {0, 2, 6}, {1, 3, 5, 7}, {1, 4}}) {
            const auto ids = some_ids(27, 31), drafts = some_ids(8, 37), more = some_ids(40, 41);
            AttentionModel model(shape, 96), plain(shape, 96);
            feed(model, ids, {27});
            feed(plain, ids, {27});
            model.run(StepClass::decode, {{.length = 27, .ids = drafts, .parents = kTree}});
            auto plain_ids = ids;
            for (const int32_t node : accepted) plain_ids.push_back(drafts[static_cast<size_t>(node)]);
            const size_t kept = plain_ids.size();
            plain_ids.insert(plain_ids.end(), more.begin(), more.end());
            const Outputs expected = decode(plain, plain_ids, 27);
            // one token without drafts, then a chain of which two are taken, then the rest one by one
            Outputs got =
                model.run(StepClass::decode, {{.length = 27, .ids = {more[0]}, .accepted = accepted}});
            auto length = static_cast<int32_t>(kept);
            for (auto& row : model.run(StepClass::decode,
                                       {{.length = length, .ids = {more[1], more[2], 7}, .accepted = {0}}}))
              got.push_back(row);
            got.pop_back();
            length += 1;
            std::vector<int32_t> pending = {0, 1};
            for (size_t i = 3; i < more.size(); ++i) {
              got.push_back(model.run(StepClass::decode,
                                      {{.length = length, .ids = {more[i]}, .accepted = pending}})[0]);
              length += static_cast<int32_t>(pending.size());
              pending = {0};
            }
            expect_same(got, {expected.begin() + static_cast<ptrdiff_t>(kept - 27), expected.end()},
                        level + ", " + shape.show());
          }
        }
      });
    });

const Test mates("flash_attention: bits do not depend on the rest of the batch or on threads", [] {
  at_every_level([](const std::string& level) {
    for (const AttentionShape& shape : all_shapes()) {
      const int lengths[] = {3, 33, 1, 64, 17, 40, 2, 31};
      AttentionModel together(shape, 512);
      std::vector<SequenceInput> prompts, next;
      Outputs expected_prompts, expected_next;
      for (int32_t slot = 0; slot < 8; ++slot) {
        const auto ids = some_ids(lengths[slot], 43 + static_cast<uint64_t>(slot));
        const auto drafts = some_ids(slot % 3 + 1, 53);
        AttentionModel alone(shape, 128);
        prompts.push_back({.slot = slot, .ids = ids});
        next.push_back({.slot = slot, .length = lengths[slot], .ids = drafts});
        for (auto& row : alone.run(StepClass::prefill, {{.slot = slot, .ids = ids}}))
          expected_prompts.push_back(row);
        for (auto& row :
             alone.run(StepClass::decode, {{.slot = slot, .length = lengths[slot], .ids = drafts}}))
          expected_next.push_back(row);
      }
      expect_same(together.run(StepClass::prefill, prompts, 2), expected_prompts,
                  level + ", prompts, " + shape.show());
      for (const int threads : {1, 2})
        expect_same(together.run(StepClass::decode, next, threads), expected_next,
                    level + ", decode, " + shape.show());
    }
  });
});

const Test levels("flash_attention: the x86 levels from AVX2 on give the same bits", [] {
  for (const AttentionShape& shape : all_shapes()) {
    const auto ids = some_ids(70, 61);
    std::optional<Outputs> expected;
    for (const cpu::Isa isa : cpu::available_isas()) {
      if (isa == cpu::Isa::v2 || isa == cpu::Isa::dotprod) continue;
      cpu::set_isa(isa);
      AttentionModel model(shape, 128);
      const Outputs got = feed(model, ids, {60, 7, 1});
      if (expected) expect_same(got, *expected, std::string(cpu::isa_name(isa)) + ", " + shape.show());
      expected = got;
    }
    cpu::set_isa(std::nullopt);
  }
});

const Test rows("kv rows: rounded once, moved and read as they are, whatever the numbers", [] {
  const float large = 3.4e38f, infinity = std::numeric_limits<float>::infinity(),
              nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> special = {0.0f,   -0.0f,     1.0f,    -1.0f,   65504.0f, 65519.99f, 65520.0f,
                                      -1e6f,  6.1e-5f,   6.0e-8f, 2.9e-8f, -3e-8f,   1e-40f,    large,
                                      -large, 0.333333f, 2049.0f, 2051.0f, 257.0f,   259.0f,    3.3895e38f};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::i8}) {
    for (const int64_t page_tokens : {1, 5, 16, 32, 64}) {
      const auto d = static_cast<int64_t>(special.size());
      const cpu::KvLayout layout(dtype, d, page_tokens), block(dtype, d, 32);
      std::vector<float> page(static_cast<size_t>(layout.head_bytes() / 4 + 1)),
          other(static_cast<size_t>(block.head_bytes() / 4 + 1));
      auto* at = reinterpret_cast<std::byte*>(page.data());
      auto* to = reinterpret_cast<std::byte*>(other.data());
      Numbers numbers(3);
      std::vector<std::vector<float>> all;
      for (int64_t token = 0; token < page_tokens; ++token) {
        std::vector<float> row = special;
        if (token > 0)
          for (float& value : row) value = numbers.next();
        layout.put(layout.row(at, token), row.data(), row.data());
        all.push_back(row);
      }
      const double most = dtype == DType::f16 ? 65504 : dtype == DType::bf16 ? 3.3895313892515355e38 : large;
      for (int64_t token = 0; token < page_tokens; ++token) {
        std::vector<float> k(special.size()), v(k), k2(k), v2(k);
        layout.get(layout.row(at, token), k.data(), v.data());
        const auto& row = all[static_cast<size_t>(token)];
        const std::vector<double> expected = kept(dtype, row);
        for (size_t i = 0; i < k.size(); ++i) {
          const double wanted = std::clamp(expected[i], -most, most);
          // an element of int8 is the product of two exact numbers, rounded once
          expect_near(k[i] / (1 + std::abs(wanted)), wanted / (1 + std::abs(wanted)),
                      dtype == DType::i8 ? 1e-7 : 0,
                      "row " + std::to_string(token) + ", element " + std::to_string(i));
        }
        expect_same_bits(v.data(), k.data(), d, "values");
        block.move(layout, layout.row(at, token), block.row(to, token % 32));
        block.get(block.row(to, token % 32), k2.data(), v2.data());
        expect_same_bits(k2.data(), k.data(), d, "moved key");
        expect_same_bits(v2.data(), v.data(), d, "moved value");
      }
      for (const float wrong : {infinity, -infinity, nan}) {
        std::vector<float> row = special, k(row), v(row);
        row[2] = wrong;
        layout.put(layout.row(at, 0), row.data(), special.data());
        layout.get(layout.row(at, 0), k.data(), v.data());
        expect(!std::isfinite(k[2]), "what is not finite shows");
        expect(std::isfinite(v[2]), "and only there");
      }
    }
  }
});

const Test bad("flash_attention: shapes that do not fit are refused", [] {
  expect_error(Code::invalid_program, [] {
    AttentionModel model({3, 2, 4});
    model.run(StepClass::prefill, {{.ids = {1}}});
  });
});

}  // namespace
}  // namespace crosscurrent::test
