// All operating system calls of the weight files are in this file; a Windows port replaces the functions of
// `os`.
#include "file_image.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "../error.h"

namespace crosscurrent {

namespace os {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

struct Status {
  uint64_t size;
  int64_t modified_s, modified_ns;
  bool is_regular;
};

[[noreturn]] void fail(const std::string& path, std::string expected) {
  const int code = errno;
  throw Error(Code::io, path, std::move(expected), std::generic_category().message(code));
}

int open_for_reading(const std::string& path) {
  // Without O_NONBLOCK a named pipe would hang here, before its kind can be checked.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) fail(path, "a readable file");
  return descriptor;
}

Status status_of(int descriptor, const std::string& path) {
  struct stat s{};
  if (::fstat(descriptor, &s) != 0) fail(path, "a readable file");
#ifdef __APPLE__
  const timespec modified = s.st_mtimespec;
#else
  const timespec modified = s.st_mtim;
#endif
  return {static_cast<uint64_t>(s.st_size), modified.tv_sec, modified.tv_nsec, S_ISREG(s.st_mode)};
}

// Bytes read: fewer than asked for only at the end of the file.
uint64_t read_at(int descriptor, const std::string& path, uint64_t offset, std::span<std::byte> dst) {
  uint64_t done = 0;
  while (done < dst.size()) {
    const ssize_t n =
        ::pread(descriptor, dst.data() + done, dst.size() - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "to read " + std::to_string(dst.size()) + " bytes at " + std::to_string(offset));
    if (n == 0) break;
    done += static_cast<uint64_t>(n);
  }
  return done;
}

std::byte* reserve(uint64_t bytes, const std::string& path) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
  flags |= MAP_NORESERVE;
#endif
  void* base = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (base == MAP_FAILED) {
    throw Error(Code::out_of_memory, path, std::to_string(bytes) + " bytes of address space",
                std::generic_category().message(errno));
  }
#ifdef MADV_NOHUGEPAGE
  // Small tensors are spread over the file: with huge pages each of them would take 2 MB.
  ::madvise(base, bytes, MADV_NOHUGEPAGE);
#endif
  return static_cast<std::byte*>(base);
}

uint64_t page_bytes() { return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)); }

// The part of [begin, begin + bytes) made of whole units.
std::span<std::byte> whole(std::byte* begin, uint64_t bytes, uint64_t unit) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const uint64_t first = (address + unit - 1) / unit * unit;
  const uint64_t last = (address + bytes) / unit * unit;
  if (last <= first) return {};
  return {begin + (first - address), last - first};
}

void prefer_huge_pages([[maybe_unused]] std::byte* begin, [[maybe_unused]] uint64_t bytes) {
#ifdef MADV_HUGEPAGE
  const auto range = whole(begin, bytes, kHugePageBytes);
  if (!range.empty()) ::madvise(range.data(), range.size(), MADV_HUGEPAGE);
#endif
}

void discard(std::byte* begin, uint64_t bytes) {
  const auto range = whole(begin, bytes, page_bytes());
  if (!range.empty()) ::madvise(range.data(), range.size(), MADV_DONTNEED);
}

void release(std::byte* base, uint64_t bytes) { ::munmap(base, bytes); }

void close(int descriptor) { ::close(descriptor); }

}  // namespace
}  // namespace os

std::unique_ptr<FileImage> FileImage::open(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    throw Error(Code::invalid_argument, "path", "no zero bytes", "one at " + std::to_string(path.find('\0')));
  }
  auto image =
      std::unique_ptr<FileImage>(new FileImage);  // owns the descriptor from here, whatever is thrown below
  image->path_ = path;
  image->descriptor_ = os::open_for_reading(path);
  const auto status = os::status_of(image->descriptor_, path);
  if (!status.is_regular) throw Error(Code::invalid_file, path, "a regular file", "a folder, device or pipe");
  image->size_ = status.size;
  image->modified_s_ = status.modified_s;
  image->modified_ns_ = status.modified_ns;
  if (status.size > 0) image->base_ = os::reserve(status.size, path);
  return image;
}

std::unique_ptr<FileImage> FileImage::from_bytes(std::vector<std::byte> bytes, std::string name) {
  auto image = std::unique_ptr<FileImage>(new FileImage);
  image->path_ = std::move(name);
  image->bytes_ = std::move(bytes);
  image->base_ = image->bytes_.data();
  image->size_ = image->prefix_ = image->bytes_.size();
  return image;
}

FileImage::~FileImage() {
  if (descriptor_ < 0) return;
  if (base_ != nullptr) os::release(base_, size_);
  os::close(descriptor_);
}

void FileImage::check_unchanged() const {
  if (descriptor_ < 0) return;
  const auto now = os::status_of(descriptor_, path_);
  if (now.size != size_) {
    throw Error(Code::file_changed, path_, std::to_string(size_) + " bytes, as when it was opened",
                std::to_string(now.size) + " bytes");
  }
  if (now.modified_s != modified_s_ || now.modified_ns != modified_ns_) {
    throw Error(Code::file_changed, path_, "the content it had when it was opened",
                "a file that was written to since");
  }
}

void FileImage::check_range(uint64_t offset, uint64_t bytes) const {
  if (offset <= size_ && bytes <= size_ - offset) return;
  throw Error(Code::internal, path_, "a range inside its " + std::to_string(size_) + " bytes",
              std::to_string(bytes) + " bytes at " + std::to_string(offset));
}

void FileImage::read(uint64_t offset, std::span<std::byte> dst) const {
  check_range(offset, dst.size());
  if (dst.empty()) return;
  if (descriptor_ < 0) {
    std::memcpy(dst.data(), base_ + offset, dst.size());
    return;
  }
  const uint64_t done = os::read_at(descriptor_, path_, offset, dst);
  if (done < dst.size()) {
    throw Error(Code::file_changed, path_, std::to_string(size_) + " bytes, as when it was opened",
                "its end at " + std::to_string(offset + done));
  }
  check_unchanged();
}

std::span<const std::byte> FileImage::load(uint64_t offset, uint64_t bytes) {
  check_range(offset, bytes);
  if (descriptor_ >= 0) {
    os::prefer_huge_pages(base_ + offset, bytes);
    read(offset, {base_ + offset, bytes});
  }
  return {base_ + offset, bytes};
}

std::span<const std::byte> FileImage::view(uint64_t offset, uint64_t bytes) const {
  check_range(offset, bytes);
  return {base_ + offset, bytes};
}

const std::byte* FileImage::load_prefix(uint64_t end) {
  constexpr uint64_t kStepBytes = uint64_t{1} << 20;
  check_range(0, end);
  if (end > prefix_) {
    const uint64_t target = std::min(size_, std::max(end, prefix_ + kStepBytes));
    read(prefix_, {base_ + prefix_, target - prefix_});
    prefix_ = target;
  }
  return base_;
}

void FileImage::unload(uint64_t offset, uint64_t bytes) {
  check_range(offset, bytes);
  if (descriptor_ >= 0) os::discard(base_ + offset, bytes);
}

std::string read_text_file(const std::string& path, uint64_t max_bytes) {
  const auto image = FileImage::open(path);
  if (image->size() > max_bytes) {
    throw Error(Code::invalid_file, path, "at most " + std::to_string(max_bytes) + " bytes",
                std::to_string(image->size()) + " bytes");
  }
  std::string text(image->size(), '\0');
  image->read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

}  // namespace crosscurrent
