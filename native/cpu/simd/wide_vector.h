// As many f32 lanes as a register of the level holds: 16 with AVX-512, else the eight of vector.h. For the
// loops that pay; what else is done to the lanes goes by eights, so that the bits are the same at every
// level.
#pragma once

#include "vector.h"

namespace crosscurrent::cpu {
namespace {

#if defined(__AVX512F__)
typedef float Wide __attribute__((vector_size(64)));
#else
typedef F32x8 Wide;
#endif

constexpr int kWideLanes = sizeof(Wide) / sizeof(float);

inline Wide load_wide(const float* from) {
  Wide value;
  memcpy(&value, from, sizeof value);
  return value;
}

inline void store_wide(float* to, Wide value) { memcpy(to, &value, sizeof value); }

inline Wide splat_wide(float x) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(x);
#else
  return splat(x);
#endif
}

inline Wide fma_wide(Wide a, Wide b, Wide c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#else
  return fma8(a, b, c);
#endif
}

}  // namespace
}  // namespace crosscurrent::cpu
