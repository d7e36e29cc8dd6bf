// Checks in bf16 and in f32 by one source: vectors of either as the other, and functions of the references.
#pragma once

#include <cmath>

#include "harness.h"

namespace crosscurrent::cuda::driver {

template <class T>
constexpr DType kDtype = sizeof(T) == 2 ? DType::bf16 : DType::f32;

template <class T>
std::vector<T> as_type(const std::vector<float>& values) {
  if constexpr (sizeof(T) == 4)
    return values;
  else
    return to_bf16(values);
}

inline std::vector<float> as_floats(const std::vector<float>& values) { return values; }
inline std::vector<float> as_floats(const std::vector<bf16>& values) { return to_float(values); }

// What remains of the values in a T.
template <class T>
std::vector<float> rounded(const std::vector<float>& values) {
  return as_floats(as_type<T>(values));
}

inline double log1p_exp(double x) { return x > 30 ? x : std::log1p(std::exp(x)); }
inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
inline double silu(double x) { return x * sigmoid(x); }

}  // namespace crosscurrent::cuda::driver
