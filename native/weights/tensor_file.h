// Tensors of a model on disk: one GGUF file, one safetensors file, or a folder of safetensors shards.
//
// No byte of the file is ever dereferenced in a shared mapping (see file_image.h): a file that is cut or
// rewritten while we read it ends in FILE_CHANGED, and tensors that were loaded before stay intact.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../dtype.h"

namespace crosscurrent {

class FileImage;
struct GgufHeader;
struct GgufValue;

struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;  // outermost first, as safetensors; GGUF dims are reversed to it
  uint64_t offset = 0;         // of the first byte, from the start of the file
  uint64_t bytes = 0;
  int file = 0;  // index of TensorStore::files()

  int64_t elements() const {
    int64_t n = 1;
    for (const int64_t dim : shape) n *= dim;
    return n;
  }
};

// Thread-safe once opened.
class TensorStore {
 public:
  enum class Format { gguf, safetensors };

  // By content: a folder with model.safetensors[.index.json], or a file by its first bytes.
  static std::shared_ptr<TensorStore> open(const std::string& path);

  // One GGUF or safetensors file held in memory; `name` stands for the path in errors.
  static std::shared_ptr<TensorStore> from_bytes(std::vector<std::byte> bytes, std::string name);

  ~TensorStore();
  TensorStore(const TensorStore&) = delete;
  TensorStore& operator=(const TensorStore&) = delete;

  Format format() const { return format_; }
  std::vector<std::string> files() const;  // paths, shards in name order
  uint64_t file_bytes() const;             // sizes of all files together

  const std::vector<TensorEntry>& tensors() const { return tensors_; }  // by file, then by offset
  const TensorEntry* find(std::string_view name) const;                 // null when absent
  const TensorEntry& at(std::string_view name) const;                   // MISSING_TENSORS when absent

  // GGUF: one JSON object of every key; arrays of more than 1,024 elements as {"type": "string", "length": n}
  // (read those with strings() or numbers()); non-finite floats are null. safetensors: its __metadata__.
  std::string metadata_json() const;
  std::vector<std::string> metadata_keys() const;
  bool has_metadata(std::string_view key) const;

  // A GGUF array of strings: views that live as long as the store. Bytes are as in the file, not checked to
  // be UTF-8.
  std::vector<std::string_view> strings(std::string_view key) const;

  // A GGUF array of numbers or booleans.
  std::vector<double> numbers(std::string_view key) const;

  // Copies bytes [offset, offset + dst.size()) of the tensor: the way to pack. Verified: the file was
  // unchanged after the copy.
  void read(const TensorEntry& entry, uint64_t offset, std::span<std::byte> dst) const;

  // The whole tensor in private memory of the store, loaded at the first call: for tensors that stay in their
  // stored type. Valid while the store lives, or until release(). Alignment is that of the file offset: 32 in
  // GGUF, maybe 1 in safetensors.
  std::span<const std::byte> map(const TensorEntry& entry) const;

  // Gives back the memory of a mapped tensor; spans that map() returned for it must no longer be used.
  void release(const TensorEntry& entry) const;

  // Tells models apart at little cost: a hash of the tensors' names, types and shapes, and of a few bytes of
  // each.
  uint64_t digest() const;

  // Throws FILE_CHANGED when a file has another size or modification time than when it was opened.
  void check_unchanged() const;

 private:
  TensorStore(std::unique_ptr<FileImage> image);
  TensorStore(const std::string& folder, std::string index_text);
  void index_names();
  size_t index_of(const TensorEntry& entry) const;
  FileImage& image_of(const TensorEntry& entry) const;
  const GgufValue& array_value(std::string_view key, bool of_strings) const;

  Format format_ = Format::safetensors;
  std::vector<std::unique_ptr<FileImage>> images_;
  std::vector<TensorEntry> tensors_;
  std::unordered_map<std::string_view, size_t> by_name_;
  std::unique_ptr<GgufHeader> gguf_;                           // only for GGUF
  std::vector<std::pair<std::string, std::string>> metadata_;  // only for safetensors

  mutable std::mutex mutex_;          // guards loaded_ and the loading itself
  mutable std::vector<bool> loaded_;  // by tensor
};

}  // namespace crosscurrent
