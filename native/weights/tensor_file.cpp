#include "tensor_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <map>

#include "../error.h"
#include "../hash.h"
#include "file_image.h"
#include "gguf.h"
#include "safetensors.h"
#include "text.h"

namespace crosscurrent {

namespace {

constexpr uint64_t kMaxIndexBytes = uint64_t{100} << 20;

bool looks_like_gguf(FileImage& image) {
  if (image.size() >= 4 && std::memcmp(image.load_prefix(4), "GGUF", 4) == 0) return true;
  return image.path().ends_with(".gguf");  // so that a broken one is reported as such
}

bool looks_like_safetensors(FileImage& image) {
  if (image.size() > 8 && image.load_prefix(9)[8] == std::byte{'{'}) return true;
  return image.path().ends_with(".safetensors");
}

}  // namespace

std::shared_ptr<TensorStore> TensorStore::open(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  if (!fs::is_directory(path, ignored))
    return std::shared_ptr<TensorStore>(new TensorStore(FileImage::open(path)));

  const auto inside = [&](const char* name) { return (fs::path(path) / name).string(); };
  const std::string single = inside("model.safetensors"), index = inside("model.safetensors.index.json");
  if (fs::exists(single, ignored))
    return std::shared_ptr<TensorStore>(new TensorStore(FileImage::open(single)));
  if (fs::exists(index, ignored)) {
    return std::shared_ptr<TensorStore>(new TensorStore(path, read_text_file(index, kMaxIndexBytes)));
  }
  const bool has_pickle = fs::exists(inside("pytorch_model.bin"), ignored) ||
                          fs::exists(inside("pytorch_model.bin.index.json"), ignored);
  if (has_pickle) {
    throw Error(Code::unsupported_format, path, "model.safetensors",
                "pytorch_model.bin (convert it to safetensors first)");
  }
  throw Error(Code::io, path, "model.safetensors or model.safetensors.index.json in the folder", "neither");
}

std::shared_ptr<TensorStore> TensorStore::from_bytes(std::vector<std::byte> bytes, std::string name) {
  return std::shared_ptr<TensorStore>(
      new TensorStore(FileImage::from_bytes(std::move(bytes), std::move(name))));
}

TensorStore::TensorStore(std::unique_ptr<FileImage> image) {
  if (looks_like_gguf(*image)) {
    format_ = Format::gguf;
    gguf_ = std::make_unique<GgufHeader>(parse_gguf(*image));
    tensors_ = std::move(gguf_->tensors);
  } else if (looks_like_safetensors(*image)) {
    SafetensorsHeader header = parse_safetensors(*image);
    tensors_ = std::move(header.tensors);
    metadata_ = std::move(header.metadata);
  } else {
    const auto n = std::min<uint64_t>(image->size(), 8);
    const std::string_view start(reinterpret_cast<const char*>(image->load_prefix(n)), n);
    throw Error(Code::unsupported_format, image->path(), "a GGUF or safetensors file",
                std::to_string(image->size()) + " bytes that start with '" + printable(start) + "'");
  }
  image->check_unchanged();
  images_.push_back(std::move(image));
  index_names();
}

TensorStore::TensorStore(const std::string& folder, std::string index_text) {
  const auto inside = [&](const std::string& name) {
    return (std::filesystem::path(folder) / name).string();
  };
  const std::string index_path = inside("model.safetensors.index.json");
  std::map<std::string, std::string> shard_of;
  std::map<std::string, int> shards;  // to the index of the file
  for (auto& [name, shard] : parse_safetensors_index(index_text, index_path)) {
    shards.emplace(shard, 0);
    shard_of.emplace(std::move(name), std::move(shard));
  }

  std::map<std::string, int> file_of;  // of every tensor that is kept
  for (auto& [shard, file] : shards) {
    file = static_cast<int>(images_.size());
    std::error_code ignored;
    if (!std::filesystem::exists(inside(shard), ignored)) {
      throw Error(Code::io, index_path, "the shard " + printable(shard) + " beside it", "no such file");
    }
    images_.push_back(FileImage::open(inside(shard)));
    SafetensorsHeader header = parse_safetensors(*images_.back());
    for (TensorEntry& entry : header.tensors) {
      const auto listed = shard_of.find(entry.name);
      if (listed != shard_of.end() && listed->second != shard) continue;  // the index prefers another shard's
      if (!file_of.emplace(entry.name, file).second) {
        throw Error(Code::invalid_file, inside(shard) + ": tensor '" + printable(entry.name) + "'",
                    "each name once", "a duplicate of an earlier shard's");
      }
      entry.file = file;
      tensors_.push_back(std::move(entry));
    }
    for (auto& pair : header.metadata) {
      if (!has_metadata(pair.first)) metadata_.push_back(std::move(pair));
    }
  }
  for (const auto& [name, shard] : shard_of) {
    if (!file_of.contains(name)) {
      throw Error(Code::invalid_file, index_path + ": weight_map: '" + printable(name) + "'",
                  "the tensor in " + printable(shard), "a shard without it");
    }
  }
  check_unchanged();
  index_names();
}

TensorStore::~TensorStore() = default;

void TensorStore::index_names() {
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(tensors_[i].name, i);
  loaded_.resize(tensors_.size());
}

std::vector<std::string> TensorStore::files() const {
  std::vector<std::string> paths;
  for (const auto& image : images_) paths.push_back(image->path());
  return paths;
}

uint64_t TensorStore::file_bytes() const {
  uint64_t bytes = 0;
  for (const auto& image : images_) bytes += image->size();
  return bytes;
}

const TensorEntry* TensorStore::find(std::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

const TensorEntry& TensorStore::at(std::string_view name) const {
  if (const TensorEntry* entry = find(name)) return *entry;
  throw Error(Code::missing_tensors, images_[0]->path(), "a tensor '" + printable(name) + "'",
              "none of that name");
}

std::string TensorStore::metadata_json() const {
  if (gguf_) return gguf_metadata_json(*gguf_);
  std::string json = "{";
  for (const auto& [key, value] : metadata_) {
    if (json.size() > 1) json += ", ";
    append_json_string(json, key);
    json += ": ";
    append_json_string(json, value);
  }
  return json + "}";
}

std::vector<std::string> TensorStore::metadata_keys() const {
  std::vector<std::string> keys;
  if (gguf_) {
    for (const auto& pair : gguf_->values) keys.emplace_back(pair.first);
  } else {
    for (const auto& pair : metadata_) keys.push_back(pair.first);
  }
  return keys;
}

bool TensorStore::has_metadata(std::string_view key) const {
  if (gguf_) return gguf_->find(key) != nullptr;
  for (const auto& pair : metadata_) {
    if (pair.first == key) return true;
  }
  return false;
}

const GgufValue& TensorStore::array_value(std::string_view key, bool of_strings) const {
  const std::string operand = images_[0]->path() + ": " + printable(key);
  const std::string expected = of_strings ? "an array of strings" : "an array of numbers";
  const GgufValue* value = gguf_ ? gguf_->find(key) : nullptr;
  if (value == nullptr) throw Error(Code::invalid_file, operand, expected, "no such key");
  const bool fits =
      value->is_array && value->type != GgufType::array && (value->type == GgufType::string) == of_strings;
  if (!fits) {
    throw Error(Code::invalid_file, operand, expected,
                (value->is_array ? "an array of " : "") + std::string(gguf_type_name(value->type)));
  }
  return *value;
}

std::vector<std::string_view> TensorStore::strings(std::string_view key) const {
  return gguf_strings(array_value(key, true));
}

std::vector<double> TensorStore::numbers(std::string_view key) const {
  return gguf_numbers(array_value(key, false));
}

void TensorStore::read(const TensorEntry& entry, uint64_t offset, std::span<std::byte> dst) const {
  const FileImage& image = image_of(entry);
  if (offset > entry.bytes || dst.size() > entry.bytes - offset) {
    throw Error(Code::internal, image.path() + ": tensor '" + printable(entry.name) + "'",
                "a range inside its " + std::to_string(entry.bytes) + " bytes",
                std::to_string(dst.size()) + " bytes at " + std::to_string(offset));
  }
  image.read(entry.offset + offset, dst);
}

std::span<const std::byte> TensorStore::map(const TensorEntry& entry) const {
  const size_t index = index_of(entry);
  const std::lock_guard lock(mutex_);
  FileImage& image = image_of(entry);
  if (loaded_[index]) return image.view(entry.offset, entry.bytes);
  const auto bytes = image.load(entry.offset, entry.bytes);
  loaded_[index] = true;
  return bytes;
}

void TensorStore::release(const TensorEntry& entry) const {
  const size_t index = index_of(entry);
  const std::lock_guard lock(mutex_);
  if (!loaded_[index]) return;
  image_of(entry).unload(entry.offset, entry.bytes);
  loaded_[index] = false;
}

size_t TensorStore::index_of(const TensorEntry& entry) const {
  const TensorEntry* own = find(entry.name);
  if (own == nullptr || own->offset != entry.offset || own->bytes != entry.bytes || own->file != entry.file) {
    throw Error(Code::internal, "tensor '" + printable(entry.name) + "'", "an entry of this store",
                "another");
  }
  return static_cast<size_t>(own - tensors_.data());
}

FileImage& TensorStore::image_of(const TensorEntry& entry) const {
  return *images_[static_cast<size_t>(tensors_[index_of(entry)].file)];
}

uint64_t TensorStore::digest() const {
  constexpr uint64_t kSampleBytes = 64;
  Fnv1a hash;
  for (const TensorEntry& entry : tensors_) {
    hash.add(std::as_bytes(std::span(entry.name)));
    hash.add_word(static_cast<uint64_t>(entry.dtype));
    hash.add(std::as_bytes(std::span(entry.shape)));
    hash.add_word(entry.bytes);
    std::array<std::byte, kSampleBytes> sample;
    const std::span part(sample.data(), std::min(kSampleBytes, entry.bytes));
    read(entry, (entry.bytes - part.size()) / 2, part);
    hash.add(part);
  }
  return hash.value();
}

void TensorStore::check_unchanged() const {
  for (const auto& image : images_) image->check_unchanged();
}

}  // namespace crosscurrent
