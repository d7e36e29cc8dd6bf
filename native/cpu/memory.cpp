#include "memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <utility>

#if defined(_WIN32)
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "../error.h"

namespace crosscurrent::cpu {
namespace {

#if !defined(_WIN32)
// One number from a file of one word; `missing` where it is not there or says "max".
uint64_t read_number(const char* path, uint64_t missing) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : missing;
}

uint64_t system_available() {
  std::ifstream file("/proc/meminfo");
  std::string key, unit;
  uint64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    std::getline(file, unit);
  }
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}
#endif

}  // namespace

uint64_t available_memory() {
#if defined(_WIN32)
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof(status);
  return GlobalMemoryStatusEx(&status) ? status.ullAvailPhys : UINT64_MAX;
#else
  const uint64_t limit = read_number("/sys/fs/cgroup/memory.max", UINT64_MAX);
  const uint64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
  const uint64_t in_group = limit == UINT64_MAX ? UINT64_MAX : limit - std::min(limit, used);
  return std::min(system_available(), in_group);
#endif
}

void require_memory(const std::string& what, uint64_t bytes) {
  const uint64_t available = available_memory();
  if (bytes > available)
    throw Error(Code::out_of_memory, what, "at most " + std::to_string(available) + " bytes (available now)",
                std::to_string(bytes));
}

PageBlock::PageBlock(const std::string& what, uint64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
#if defined(_WIN32)
  void* place = VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  const bool failed = place == nullptr;
#else
  void* place =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  const bool failed = place == MAP_FAILED;
#endif
  if (failed)
    throw Error(Code::out_of_memory, what, "room for " + std::to_string(bytes) + " bytes",
                "a refusal of the system");
  data_ = static_cast<std::byte*>(place);
}

PageBlock::~PageBlock() {
  if (data_ == nullptr) return;
#if defined(_WIN32)
  VirtualFree(data_, 0, MEM_RELEASE);
#else
  munmap(data_, bytes_);
#endif
}

PageBlock& PageBlock::operator=(PageBlock&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace crosscurrent::cpu
