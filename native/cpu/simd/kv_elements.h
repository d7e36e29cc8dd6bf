// Elements of a kv cache as f32 lanes, converted in registers. A type says
//
//   Element            what memory holds
//   kPair              elements that follow each other in a sum and lie in one 32-bit lane (kv_layout.h)
//   load<kPart>(from)  element kPart of eight neighbouring pairs; the first of them at `from`
//   wide<kPart>(from)  the same of kWideLanes pairs
//   one(from)          the element at `from`
//
// Every conversion is exact: an int8 element without its scale.
#pragma once

#include "vector.h"
#include "wide_vector.h"

namespace crosscurrent::cpu {
namespace {

typedef uint16_t U16x8 __attribute__((vector_size(16)));
typedef int8_t I8x8 __attribute__((vector_size(8)));

struct KvF32 {
  using Element = float;
  static constexpr int kPair = 1;
  template <int kPart>
  static F32x8 load(const float* from) {
    return load8(from);
  }
  template <int kPart>
  static Wide wide(const float* from) {
    return load_wide(from);
  }
  static float one(const float* from) { return *from; }
};

struct KvF16 {
  using Element = uint16_t;
  static constexpr int kPair = 1;
  template <int kPart>
  static F32x8 load(const uint16_t* from) {
#if defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
    U16x8 halves;
    memcpy(&halves, from, sizeof halves);
    const I32x8 all = __builtin_convertvector(halves, I32x8);
    const I32x8 size = all & 0x7fff, sign = (all & 0x8000) << 16;
    // the exponent's bias is 112 less than that of f32; infinity and NaN have it all ones
    const I32x8 finite = bits_of(from_bits(size << 13) * 0x1p112f), special = 0x7f800000 | size << 13;
    const I32x8 is_special = size >= 0x7c00;
    return from_bits((is_special & special) | (~is_special & finite) | sign);
#endif
  }
  template <int kPart>
  static Wide wide(const uint16_t* from) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#else
    return load<kPart>(from);
#endif
  }
  static float one(const uint16_t* from) {
    uint16_t eight[kLanes] = {*from};
    return load<0>(eight)[0];
  }
};

struct KvBf16 {
  using Element = uint16_t;
  static constexpr int kPair = 2;
  template <int kPart>
  static F32x8 load(const uint16_t* from) {
    I32x8 pairs;
    memcpy(&pairs, from, sizeof pairs);
    return from_bits(kPart == 0 ? pairs << 16 : pairs & (int32_t)0xffff0000);
  }
  template <int kPart>
  static Wide wide(const uint16_t* from) {
#if defined(__AVX512F__)
    const __m512i pairs = _mm512_loadu_si512(from);
    return (Wide)(kPart == 0 ? _mm512_slli_epi32(pairs, 16)
                             : _mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000)));
#else
    return load<kPart>(from);
#endif
  }
  static float one(const uint16_t* from) {
    const uint32_t bits = (uint32_t)*from << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
  }
};

struct KvInt8 {
  using Element = int8_t;
  static constexpr int kPair = 1;
  template <int kPart>
  static F32x8 load(const int8_t* from) {
#if defined(__AVX2__)
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from)));
#else
    I8x8 bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, F32x8);
#endif
  }
  template <int kPart>
  static Wide wide(const int8_t* from) {
#if defined(__AVX512F__)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
#else
    return load<kPart>(from);
#endif
  }
  static float one(const int8_t* from) { return (float)*from; }
};

}  // namespace
}  // namespace crosscurrent::cpu
