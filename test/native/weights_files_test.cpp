// GGUF and safetensors containers: good files, broken files, files that change under us.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <thread>

#include "harness.h"
#include "native/weights/json.h"
#include "native/weights/safetensors.h"
#include "native/weights/tensor_file.h"
#include "native/weights/text.h"
#include "weights_reading.h"
#include "weights_samples.h"

namespace crosscurrent::test {
namespace {

namespace fs = std::filesystem;

std::shared_ptr<TensorStore> store_of(const std::string& file) {
  return TensorStore::from_bytes(bytes_of(file), "bytes");
}

// The error of opening these bytes has this code and names these words.
void expect_refused(const std::string& file, Code code, const std::vector<std::string>& words) {
  try {
    store_of(file);
  } catch (const Error& error) {
    const std::string message = error.what();
    expect_equal(code_name(error.code()), code_name(code), message);
    for (const std::string& word : words)
      expect(message.find(word) != std::string::npos, "'" + word + "' in: " + message);
    return;
  }
  fail("nothing was thrown");
}

// A file that is removed at the end.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& name, const std::string& content)
      : path_((fs::temp_directory_path() / ("crosscurrent-" + std::to_string(std::rand()) + name)).string()) {
    write(content);
  }
  ~TemporaryFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  void write(const std::string& content) { std::ofstream(path_, std::ios::binary) << content; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

const Test gguf_values("gguf: values of every type", [] {
  const auto store = store_of(sample_gguf());
  expect(store->format() == TensorStore::Format::gguf, "format");
  const std::string expected =
      R"({"general.architecture": "sample", "v.u8": 200, "v.i8": -100, "v.u16": 60000, "v.i16": -30000, )"
      R"("v.u32": 4000000000, "v.i32": -2000000000, "v.f32": 1e-05, "v.bool": true, "v.u64": 18446744073709551615, )"
      R"("v.i64": -9223372036854775808, "v.f64": 0.1, "v.nan": null, "tokens": ["a\"b", "", ")"
      "\xef\xbf\xbd"
      R"("], "scores": [1.5, -2], "nested": [[1, 2], ["x"]], "long": {"type": "int16", "length": 1025}, "general.alignment": 32})";
  expect_equal(store->metadata_json(), expected, "metadata");
  expect_equal(store->strings("tokens").at(2), "\xff", "a token that is not UTF-8");
  expect_equal(store->numbers("scores").at(1), -2.0, "score");
  expect_equal(store->numbers("long").size(), 1025u, "long");
  expect_error(Code::invalid_file, [&] { store->strings("scores"); });
  expect_error(Code::invalid_file, [&] { store->numbers("tokens"); });
  expect_error(Code::invalid_file, [&] { store->numbers("nested"); });
  expect_error(Code::invalid_file, [&] { store->numbers("v.u8"); });
  expect_error(Code::invalid_file, [&] { store->numbers("absent"); });
});

const Test gguf_tensors("gguf: tensors of every type", [] {
  const auto store = store_of(sample_gguf());
  expect_equal(store->tensors().size(), 12u, "count");
  const TensorEntry& f16 = store->at("f16");
  expect(f16.shape == std::vector<int64_t>{2, 3, 4}, "shape is outermost first");
  expect_equal(f16.bytes, 48u, "bytes");
  expect_equal(dtype_info(store->at("q6_k").dtype).name, "q6_k", "dtype");
  read_all(*store);
  expect(store->find("absent") == nullptr, "absent");
  expect_error(Code::missing_tensors, [&] { store->at("absent"); });
});

const Test safetensors_file_test("safetensors: tensors and metadata", [] {
  const auto store = store_of(sample_safetensors());
  expect(store->format() == TensorStore::Format::safetensors, "format");
  expect_equal(store->metadata_json(), "{\"format\": \"pt\", \"note\": \"\u00e9\U0001f600\\u000a\"}",
               "metadata");
  expect_equal(store->tensors().front().name, "a", "sorted by offset");
  expect_equal(store->at("scalar").elements(), 1, "scalar");
  expect_equal(store->map(store->at("empty")).size(), 0u, "empty");
  read_all(*store);
});

const Test ranges("store: ranges outside a tensor and foreign entries are refused", [] {
  const auto store = store_of(sample_safetensors());
  std::vector<std::byte> two(2);
  store->read(store->at("b"), 10, two);
  expect_error(Code::internal, [&] { store->read(store->at("b"), 11, two); });
  expect_error(Code::internal, [&] { store->read(store->at("b"), UINT64_MAX, two); });
  TensorEntry forged = store->at("b");
  forged.bytes = uint64_t{1} << 40;
  expect_error(Code::internal, [&] { store->map(forged); });
});

const Test safetensors_refused("safetensors: what the reference refuses, and more", [] {
  const auto refuse = [](std::string_view header, size_t data, std::vector<std::string> words,
                         Code code = Code::invalid_file) {
    expect_refused(safetensors_file(header, data), code, words);
  };
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x)", 4, {"JSON", "nothing after"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, {"data", "8", "4"});
  refuse(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, {"integer"});
  refuse(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, {"integer"});
  refuse(R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}})", 4, {"overflow"});
  refuse(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4,
         {"a", "8 dimensions"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, {"begin <= end", "[4, 0]"});
  refuse(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, {"data_offsets"});
  refuse(R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, {"'dtype'", "none"});
  refuse(R"({"a":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]}})", 4, {"'a'", "F8_E4M3"},
         Code::unsupported_format);
  refuse("{\"\xff\":{}}", 0, {"UTF-8"});
  refuse(R"({"__metadata__":{"x":1}})", 0, {"string"});
  refuse("{\"a\":" + std::string(100, '['), 0, {"JSON"});
  refuse("[1]", 0, {"GGUF or safetensors"}, Code::unsupported_format);
});

const Test gguf_refused("gguf: fields at their limits", [] {
  const auto refuse = [](const std::vector<GgufTensor>& tensors, const ByteWriter& values, uint64_t count,
                         std::vector<std::string> words, Code code = Code::invalid_file) {
    expect_refused(gguf_header(tensors, count, values.text()).align(32).fill(64).text(), code, words);
  };
  const auto value = [](std::string_view name, uint32_t type) {
    ByteWriter w;
    w.string(name).number(type);
    return w;
  };
  refuse({{"t", {8}, 0, 0, 0}, {"u", {8}, 0, 0, 0}}, {}, 0, {"'u'", "overlap", "'t'"});
  refuse({{"t", {0}, 0, 0, 0}}, {}, 0, {"'t'", "dimension 0"});
  refuse({{"t", {uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0, 0}}, {}, 0, {"'t'", "overflow"});
  refuse({{"t", {UINT64_MAX}, 0, 0, 0}}, {}, 0, {"'t'", "18446744073709551615"});
  refuse({{"\xc0\x80", {8}, 0, 0, 0}}, {}, 0, {"UTF-8", "\\xc0"});
  refuse({{"t", {8}, 23, 0, 0}}, {}, 0, {"'t'", "IQ4_XS"}, Code::unsupported_format);
  refuse({{"t", {}, 0, 0, 0}}, {}, 0, {"'t'", "0 dimensions"});
  refuse({}, value("k", 7).number<uint8_t>(2), 1, {"'k'", "boolean"});
  refuse({}, value("k", 8).string("\xed\xa0\x80"), 1, {"'k'", "UTF-8"});
  refuse({}, value("k", 0).number<uint8_t>(1).string("k").number<uint32_t>(0).number<uint8_t>(1), 2,
         {"'k'", "duplicate"});
  refuse({}, value("general.alignment", 8).string("32"), 1, {"general.alignment", "string"});
  refuse({}, value("split.count", 2).number<uint16_t>(3), 1, {"split.count", "3"}, Code::unsupported_format);
  ByteWriter nested = value("k", 9);
  for (int i = 0; i < 5; ++i) nested.number<uint32_t>(9).number<uint64_t>(1);
  refuse({}, nested.number<uint32_t>(0).number<uint64_t>(0), 1, {"'k'", "nested"});
});

const Test every_prefix("both formats: every prefix of a file is refused", [] {
  for (const std::string& file : {sample_gguf(), sample_safetensors()}) {
    for (size_t n = 0; n < file.size(); ++n) {
      try {
        store_of(file.substr(0, n));
        fail("a prefix of " + std::to_string(n) + " bytes was accepted");
      } catch (const Error& error) {
        expect(!error.operand().empty(), "an operand");
      }
    }
  }
});

const Test changed("store: a file that changes is FILE_CHANGED, loaded tensors stay", [] {
  const std::string content = sample_safetensors();
  std::vector<std::byte> four(4);
  for (const size_t size : {content.size() - 3, size_t{0}, content.size() + 1}) {
    const TemporaryFile file(".safetensors", content);
    const auto store = TensorStore::open(file.path());
    const auto kept = store->map(store->at("a"));
    fs::resize_file(file.path(), size);
    expect_error(Code::file_changed, [&] { store->read(store->at("b"), 0, four); });
    expect_error(Code::file_changed, [&] { store->map(store->at("d")); });
    expect_error(Code::file_changed, [&] { store->check_unchanged(); });
    expect(std::memcmp(kept.data(), store->map(store->at("a")).data(), 16) == 0, "a tensor loaded before");
    expect_equal(std::to_integer<int>(kept[1]), 7, "its bytes");
  }
  TemporaryFile file(".safetensors", content);
  const auto store = TensorStore::open(file.path());
  fs::last_write_time(file.path(), fs::last_write_time(file.path()) + std::chrono::seconds(1));
  expect_error(Code::file_changed, [&] { store->read(store->at("a"), 0, four); });
});

const Test released("store: a released tensor is loaded anew", [] {
  const std::string header =
      R"({"a":{"dtype":"U8","shape":[40000],"data_offsets":[0,40000]},"b":{"dtype":"U8","shape":[5],"data_offsets":[40000,40005]}})";
  const TemporaryFile file(".safetensors", safetensors_file(header, 40005));
  const auto store = TensorStore::open(file.path());
  const auto neighbour = store->map(store->at("b"));
  for (int round = 0; round < 3; ++round) {
    read_all(*store);
    store->release(store->at("a"));
    store->release(store->at("a"));
    expect_equal(std::to_integer<size_t>(neighbour[2]), size_t{40002} * 7 % 60,
                 "the neighbour keeps its bytes");
  }
});

const Test cut_while_read("store: a file cut while threads read it ends in FILE_CHANGED", [] {
  const std::string header = R"({"a":{"dtype":"U8","shape":[1000000],"data_offsets":[0,1000000]}})";
  const std::string content = safetensors_file(header, 1'000'000);
  for (int round = 0; round < 5; ++round) {
    const TemporaryFile file(".safetensors", content);
    const auto store = TensorStore::open(file.path());
    std::atomic<int> refused = 0;
    const auto reader = [&](bool by_map) {
      std::vector<std::byte> chunk(50'000);
      try {
        while (true) {
          for (uint64_t at = 0; at < 1'000'000; at += chunk.size()) store->read(store->at("a"), at, chunk);
          if (by_map) store->release(store->at("a")), (void)store->map(store->at("a"));
        }
      } catch (const Error& error) {
        if (error.code() == Code::file_changed) ++refused;
      }
    };
    std::thread first(reader, false), second(reader, true);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    fs::resize_file(file.path(), 4096);
    first.join();
    second.join();
    expect_equal(refused.load(), 2, "readers that saw it");
  }
});

const Test threads("store: threads share it", [] {
  const TemporaryFile file(".gguf", sample_gguf());
  const auto store = TensorStore::open(file.path());
  std::vector<std::thread> readers;
  std::atomic<int> finished = 0;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      for (int round = 0; round < 20; ++round) read_all(*store);
      ++finished;
    });
  }
  for (std::thread& reader : readers) reader.join();
  expect_equal(finished.load(), 4, "threads");
});

const Test kinds("open: what is no weight file", [] {
  expect_error(Code::io, [] { TensorStore::open("/no/such/file.gguf"); });
  expect_error(Code::io, [] { TensorStore::open(""); });
  expect_error(Code::invalid_argument, [] { TensorStore::open(std::string("a\0b", 3)); });
  expect_error(Code::invalid_file, [] { TensorStore::open("/dev/zero"); });
  const TemporaryFile text(".txt", "hello, this is no model"), empty(".bin", ""), empty_gguf(".gguf", "");
  expect_error(Code::unsupported_format, [&] { TensorStore::open(text.path()); });
  expect_error(Code::unsupported_format, [&] { TensorStore::open(empty.path()); });
  expect_error(Code::invalid_file, [&] { TensorStore::open(empty_gguf.path()); });
});

const Test json_reader("json: strictness", [] {
  const auto accepts = [](std::string_view text) {
    JsonReader json(text, "text");
    json.skip();
    json.end();
  };
  for (const char* good : {"{}", "[]", " [1, -0, 0.5, 1e9, -1.5E-3, true, false, null] ",
                           R"({"a":{"b":[[]]},"":"\u0041\ud83d\ude00"})"}) {
    accepts(good);
  }
  for (const char* bad : {"",
                          "{",
                          "[1,]",
                          "{\"a\":1,}",
                          "{\"a\" 1}",
                          "{a:1}",
                          "[01]",
                          "[1.]",
                          "[.5]",
                          "[+1]",
                          "[1e]",
                          "nul",
                          "truE",
                          "\"\\x\"",
                          "\"\\u12\"",
                          "\"\\ud800\"",
                          "\"\\ud800\\u0041\"",
                          "\"\\udc00\"",
                          "\"\t\"",
                          "\"",
                          "[1] 2",
                          "{\"a\":1,\"a\":2}",
                          "\"\xc3\"",
                          "\"\xf4\x90\x80\x80\"",
                          "NaN",
                          "'a'",
                          "[1 2]",
                          "[\"a\"",
                          "]"}) {
    expect_error(Code::invalid_file, [&] { accepts(bad); });
  }
  accepts(std::string(32, '[') + std::string(32, ']'));
  expect_error(Code::invalid_file, [&] { accepts(std::string(33, '[') + std::string(33, ']')); });
  expect_equal(JsonReader("18446744073709551615", "n").unsigned_integer(), UINT64_MAX, "largest");
  expect_error(Code::invalid_file, [] { JsonReader("18446744073709551616", "n").unsigned_integer(); });
});

const Test index_test("index: shards stay in the folder", [] {
  const auto map = parse_safetensors_index(
      R"({"metadata":{"total_size":1.5e9},"weight_map":{"a":"x.safetensors"}})", "index");
  expect_equal(map.at(0).second, "x.safetensors", "shard");
  for (const char* shard : {"../x", "/etc/passwd", "a/b", "a\\\\b", "..", ".", "", "c:x", "a\\u0000"}) {
    const std::string text = std::string(R"({"weight_map":{"a":")") + shard + "\"}}";
    expect_error(Code::invalid_file, [&] { parse_safetensors_index(text, "index"); });
  }
  expect_error(Code::invalid_file, [] { parse_safetensors_index("{}", "index"); });
  expect_error(Code::invalid_file, [] { parse_safetensors_index(R"({"weight_map":{}})", "index"); });
});

const Test names("text: names in messages are printable", [] {
  expect_equal(printable("a\n\xff\u00e9"), "a\\x0a\\xff\u00e9", "escapes");
  expect(printable(std::string(100'000, 'x')).size() < 200, "cut");
});

}  // namespace
}  // namespace crosscurrent::test
