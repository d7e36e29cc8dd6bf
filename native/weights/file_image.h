// A file read into private memory on demand, laid out as in the file.
//
// Why not a shared mmap: touching a page of a mapped file that another process has truncated raises SIGBUS,
// which a library inside Node can neither prevent nor handle. So address space of the file's size is reserved
// (untouched pages cost nothing), and pread fills the ranges that are asked for. The resident size equals
// that of a mapped file whose same ranges were touched; a short read is a typed error; and what was loaded no
// longer depends on the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace crosscurrent {

class FileImage {
 public:
  // Regular files only. Size and modification time are recorded here.
  static std::unique_ptr<FileImage> open(const std::string& path);

  // The same interface over bytes in memory, for tests and for callers who have no file.
  static std::unique_ptr<FileImage> from_bytes(std::vector<std::byte> bytes, std::string name);

  ~FileImage();
  FileImage(const FileImage&) = delete;
  FileImage& operator=(const FileImage&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const { return size_; }

  // FILE_CHANGED when size or modification time differ from those at open.
  void check_unchanged() const;

  // Copies into caller's memory. The range must lie inside the file. The file is checked after the copy, so
  // bytes that are returned are bytes of the file that was opened.
  void read(uint64_t offset, std::span<std::byte> dst) const;

  // Fills the range of the image. Not for concurrent use on overlapping ranges.
  std::span<const std::byte> load(uint64_t offset, uint64_t bytes);

  // A range that was loaded before.
  std::span<const std::byte> view(uint64_t offset, uint64_t bytes) const;

  // Makes [0, end) available and returns its start; grows in steps. For parsing headers, before the image is
  // shared.
  const std::byte* load_prefix(uint64_t end);

  // Gives whole pages inside the range back to the system; they read as zero until loaded again.
  void unload(uint64_t offset, uint64_t bytes);

 private:
  FileImage() = default;
  void check_range(uint64_t offset, uint64_t bytes) const;

  std::string path_;
  uint64_t size_ = 0;
  uint64_t prefix_ = 0;  // bytes loaded by load_prefix
  int descriptor_ = -1;  // -1: bytes in memory
  int64_t modified_s_ = 0, modified_ns_ = 0;
  std::byte* base_ = nullptr;
  std::vector<std::byte> bytes_;  // owns base_ when there is no file
};

// The whole of a small text file (an index, a config); INVALID_FILE above `max_bytes`.
std::string read_text_file(const std::string& path, uint64_t max_bytes);

}  // namespace crosscurrent
