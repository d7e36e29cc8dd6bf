// Files made by other libraries: the good ones and the broken ones beside the repository.
#include <cstdio>

#include "harness.h"
#include "native/weights/file_image.h"
#include "native/weights/json.h"
#include "weights_reading.h"
#include "weights_samples.h"

namespace crosscurrent::test {
namespace {

namespace fs = std::filesystem;

struct BadFile {
  std::string file;
  std::vector<std::string> names;
};

std::vector<BadFile> bad_files() {
  const std::string path = (shared_folder() / "quant/bad/bad.json").string();
  const std::string text = read_text_file(path, 1 << 20);
  JsonReader json(text, path);
  std::vector<BadFile> files;
  json.array([&] {
    BadFile& bad = files.emplace_back();
    json.object([&](const std::string& key) {
      if (key == "file") {
        bad.file = json.string();
      } else if (key == "error_should_name") {
        json.array([&] { bad.names.push_back(json.string()); });
      } else {
        json.skip();
      }
    });
  });
  return files;
}

bool skip_without_fixtures(const char* what) {
  if (fs::exists(shared_folder() / "quant")) return false;
  std::printf("skipped: %s (no ../shared beside the repository)\n", what);
  return true;
}

const Test broken("fixtures: every broken container is refused, naming what is wrong", [] {
  if (skip_without_fixtures("broken files")) return;
  int containers = 0;
  for (const BadFile& bad : bad_files()) {
    const std::string name = bad.file.substr(4);  // after "bad/"
    const bool is_container = name.starts_with("st-") || name.starts_with("gguf-") ||
                              name.starts_with("shard-") || name.starts_with("index-");
    const std::string path = (shared_folder() / "quant" / bad.file).string();
    if (!is_container || name == "gguf-missing-key.gguf") {  // wrong for a model, sound as containers
      read_all(*TensorStore::open(path), false);
      continue;
    }
    ++containers;
    try {
      TensorStore::open(path);
      fail(name + " was accepted");
    } catch (const Error& error) {
      const std::string message = error.what();
      for (const std::string& word : bad.names)
        expect(message.find(word) != message.npos, name + ": '" + word + "' in: " + message);
      const bool is_unsupported = name.find("version") != name.npos || name.find("endian") != name.npos ||
                                  name.find("type-id") != name.npos || name.find("dtype") != name.npos;
      const Code expected = is_unsupported            ? Code::unsupported_format
                            : name == "shard-missing" ? Code::io
                                                      : Code::invalid_file;
      expect_equal(code_name(error.code()), code_name(expected), name + ": " + message);
    }
  }
  expect_equal(containers, 31, "broken containers");
});

const Test good("fixtures: every good file is read whole", [] {
  if (skip_without_fixtures("good files")) return;
  int opened = 0, unsupported = 0;
  const auto open = [&](const fs::path& path) {
    try {
      read_all(*TensorStore::open(path.string()));
      ++opened;
    } catch (const Error& error) {
      if (error.code() != Code::unsupported_format) fail(error.what());
      ++unsupported;
    }
  };
  for (const char* root : {"quant", "parity"}) {
    for (const auto& entry : fs::directory_iterator(shared_folder() / root)) {
      if (!entry.is_directory() || entry.path().filename() == "bad") continue;
      open(fs::exists(entry.path() / "model.gguf") ? entry.path() / "model.gguf" : entry.path());
      open(entry.path() / "golden.safetensors");
    }
  }
  for (const char* name :
       {"models/crosscurrent-tiny.Q4_1.gguf", "models/tiny", "models/golden/tiny.golden.safetensors"}) {
    open(shared_folder() / name);
  }
  std::printf("fixtures: %d opened, %d of unsupported dtypes\n", opened, unsupported);
  expect_equal(unsupported, 10, "3 GGUF types, FP8 and MLX");
});

}  // namespace
}  // namespace crosscurrent::test
