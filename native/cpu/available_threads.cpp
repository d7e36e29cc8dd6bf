#include "available_threads.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

namespace crosscurrent::cpu {

#if defined(__linux__)
namespace {

int physical_cores_of_affinity() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0)
    return static_cast<int>(std::thread::hardware_concurrency());
  std::set<std::string> cores;  // SMT siblings name the same list
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    std::string siblings;
    std::ifstream("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list") >>
        siblings;
    cores.insert(siblings.empty() ? "cpu" + std::to_string(cpu) : siblings);
  }
  return static_cast<int>(cores.size());
}

// CPUs that one directory of the cgroup tree allows, or infinity where it sets no quota.
double quota_v2(const std::string& directory) {
  std::string quota;
  double period = 0;
  std::ifstream(directory + "/cpu.max") >> quota >> period;
  if (quota.empty() || quota == "max" || period <= 0) return INFINITY;
  return std::strtod(quota.c_str(), nullptr) / period;
}

double quota_v1(const std::string& directory) {
  double quota = -1, period = 0;
  std::ifstream(directory + "/cpu.cfs_quota_us") >> quota;
  std::ifstream(directory + "/cpu.cfs_period_us") >> period;
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

// The tightest quota from the process' own group up to the root; inside a container the root is the
// container's group.
double cgroup_quota() {
  double quota = std::min(quota_v2("/sys/fs/cgroup"), quota_v1("/sys/fs/cgroup/cpu"));
  std::ifstream groups("/proc/self/cgroup");  // lines "id:controllers:path"; v2 has no controllers
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::string controllers = ",";
    controllers.append(line, first + 1, second - first - 1).append(",");
    const bool v2 = controllers == ",,";
    if (!v2 && controllers.find(",cpu,") == std::string::npos) continue;
    for (std::string path = line.substr(second + 1); path.size() > 1 && path[0] == '/';
         path.resize(path.rfind('/')))
      quota = std::min(quota, v2 ? quota_v2("/sys/fs/cgroup" + path) : quota_v1("/sys/fs/cgroup/cpu" + path));
  }
  return quota;
}

}  // namespace

int count_available_threads() {
  const int cores = std::max(1, physical_cores_of_affinity());
  const double quota = cgroup_quota();
  return quota < cores ? std::max(1, static_cast<int>(quota + 0.5)) : cores;
}
#else
int count_available_threads() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }
#endif

}  // namespace crosscurrent::cpu
