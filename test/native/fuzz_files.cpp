// Mutates small valid weight files: each either opens, and can then be read whole, or throws Error.
//
//   fuzz_files [seed = 1] [cases = 20000]      meant for a build with -fsanitize=address,undefined
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>

#include "native/error.h"
#include "native/weights/dequantize.h"
#include "native/weights/safetensors.h"
#include "native/weights/tensor_file.h"
#include "native/weights/text.h"
#include "weights_samples.h"

namespace crosscurrent::test {
namespace {

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t below(size_t n) { return n == 0 ? 0 : random_() % n; }

  std::string mutate(std::string file, const std::string& other) {
    for (size_t rounds = 1 + below(4); rounds > 0; --rounds) once(file, other);
    return file;
  }

 private:
  // Headers are where the decisions are: most positions are taken from the first part.
  size_t position(const std::string& file) {
    return below(below(4) > 0 ? std::min<size_t>(file.size(), 1200) : file.size());
  }

  void once(std::string& file, const std::string& other) {
    if (file.empty()) file = "x";
    const size_t at = position(file);
    switch (below(9)) {
      case 0: file[at] = static_cast<char>(file[at] ^ (1 << below(8))); break;
      case 1: file[at] = static_cast<char>(random_()); break;
      case 2: write_number(file, at); break;
      case 3: file.resize(at); break;
      case 4: file.erase(at, below(40)); break;
      case 5: file.insert(at, file.substr(below(file.size()), below(60))); break;
      case 6: file.replace(at, below(60), other.substr(below(other.size()), below(60))); break;
      case 7: file.append(below(100), static_cast<char>(random_())); break;
      case 8: write_digits(file, at); break;
    }
  }

  void write_number(std::string& file, size_t at) {
    constexpr uint64_t kExtremes[] = {0,
                                      1,
                                      2,
                                      9,
                                      31,
                                      77,
                                      255,
                                      65535,
                                      0x7fffffff,
                                      0xffffffff,
                                      uint64_t{1} << 32,
                                      uint64_t{1} << 60,
                                      INT64_MAX,
                                      uint64_t{1} << 63,
                                      UINT64_MAX - 7,
                                      UINT64_MAX};
    const uint64_t value = kExtremes[below(std::size(kExtremes))];
    const size_t width = below(2) == 0 ? 4 : 8;
    if (below(2) == 0) at = at / 4 * 4;
    std::memcpy(&file[at], &value, std::min(width, file.size() - at));
  }

  // JSON: puts a number in place of the digits that follow.
  void write_digits(std::string& file, size_t at) {
    constexpr const char* kNumbers[] = {
        "0", "-1", "1e9", "0.5", "18446744073709551615", "9223372036854775808", "99999999999999999999", "4"};
    at = file.find_first_of("0123456789", at);
    if (at == file.npos) return;
    const size_t end = std::min(file.find_first_not_of("0123456789", at), file.size());
    file.replace(at, end - at, kNumbers[below(std::size(kNumbers))]);
  }

  std::mt19937_64 random_;
};

// Keeps the length field of a safetensors file right, so that mutations reach the JSON behind it.
void repair_header_length(std::string& file, const std::string& original) {
  const size_t data_bytes = 40;
  if (file.size() < 8 + data_bytes || original.starts_with("GGUF")) return;
  const uint64_t length = file.size() - 8 - data_bytes;
  std::memcpy(file.data(), &length, 8);
}

void use(const TensorStore& store) {
  (void)store.metadata_json();
  for (const std::string& key : store.metadata_keys()) {
    try {
      (void)store.strings(key);
    } catch (const Error&) {  // not an array of strings
    }
    try {
      (void)store.numbers(key);
    } catch (const Error&) {
    }
  }
  uint64_t end = 0;
  for (const TensorEntry& entry : store.tensors()) {
    if (entry.offset < end) throw std::runtime_error("tensors overlap");
    end = entry.offset + entry.bytes;
    const auto bytes = store.map(entry);
    std::vector<std::byte> copy(entry.bytes);
    store.read(entry, 0, copy);
    if (!std::equal(bytes.begin(), bytes.end(), copy.begin()))
      throw std::runtime_error("map and read differ");
    if (!is_weight_dtype(entry.dtype)) continue;
    std::vector<float> values(static_cast<size_t>(entry.elements()));
    dequantize_row(entry.dtype, bytes, values);
  }
}

int run(uint64_t seed, size_t cases) {
  const std::string gguf = sample_gguf(false), safetensors = sample_safetensors();
  const std::string index =
      R"({"metadata":{"total_size":1.5e9},"weight_map":{"a":"x-1.safetensors","b":"x-2.safetensors"}})";
  Mutator mutator(seed);
  size_t accepted = 0, refused = 0;
  for (size_t i = 0; i < cases; ++i) {
    const bool is_index = i % 8 == 7;
    const std::string& original = is_index ? index : i % 2 == 0 ? gguf : safetensors;
    std::string file = mutator.mutate(original, i % 3 == 0 ? safetensors : gguf);
    if (!is_index && mutator.below(2) == 0) repair_header_length(file, original);
    try {
      if (is_index) {
        parse_safetensors_index(file, "index");
      } else {
        use(*TensorStore::from_bytes(bytes_of(file), i % 2 == 0 ? "case.gguf" : "case.safetensors"));
      }
      ++accepted;
    } catch (const Error& error) {
      ++refused;
      if (error.code() == Code::internal || error.operand().empty() || !is_utf8(error.what())) {
        std::printf("seed %llu, case %zu: %s\n", static_cast<unsigned long long>(seed), i, error.what());
        return 1;
      }
    } catch (const std::exception& error) {
      std::printf("seed %llu, case %zu: threw no Error: %s\n", static_cast<unsigned long long>(seed), i,
                  error.what());
      return 1;
    }
  }
  std::printf("seed %llu: %zu accepted, %zu refused; %zu passed, 0 failed\n",
              static_cast<unsigned long long>(seed), accepted, refused, cases);
  return 0;
}

}  // namespace
}  // namespace crosscurrent::test

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const size_t cases = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 20'000;
  return crosscurrent::test::run(seed, cases);
}
