// What a tile policy may know of the device. No CUDA headers: policies are tested on a CPU.
#pragma once

#include <cstddef>
#include <cstdint>

namespace crosscurrent::cuda {

struct Arch {
  int compute = 90;               // 10 * major + minor
  int sms = 132;                  // multiprocessors
  int shared_bytes = 227 * 1024;  // most dynamic shared memory of a block
  int64_t l2_bytes = 50 << 20;

  // wgmma, TMA and setmaxnreg; sm_90a code runs on compute capability 9.0 alone.
  bool has_wgmma() const { return compute == 90; }
  // Programmatic dependent launch, thread-block clusters.
  bool has_dependent_launch() const { return compute >= 90; }
};

template <class T>
constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

template <class T>
constexpr T round_up(T a, T b) {
  return ceil_div(a, b) * b;
}

}  // namespace crosscurrent::cuda
