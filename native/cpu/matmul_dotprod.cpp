// matmul at the arm64 dot-product level: a line of a panel is four registers, a product one sdot
#include <arm_neon.h>

#include "simd/dot_panels.h"
#include "simd/matmul_v2.h"

namespace crosscurrent::cpu {
namespace {

constexpr int kStoredPrefetchBytes = 1024;

struct Neon {
  using Int = int32x4_t;
  using Float = float32x4_t;
  static constexpr int kVectors = 4, kTileRows = 3;
  static constexpr bool kSigned = true;

  static Int zero() { return vdupq_n_s32(0); }
  static Float zero_f() { return vdupq_n_f32(0); }
  static Int splat(int32_t x) { return vdupq_n_s32(x); }
  static Float splat_f(float x) { return vdupq_n_f32(x); }
  static Int load(const uint8_t* from) { return vreinterpretq_s32_u8(vld1q_u8(from)); }
  static Int low_nibbles(Int w) {
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(w), vdupq_n_u8(15)));
  }
  static Int high_nibbles(Int w) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(w), 4)); }
  static Int shifted(Int w) { return w; }
  static Int broadcast_4(const int8_t* from) {
    int32_t bytes;
    memcpy(&bytes, from, 4);
    return vdupq_n_s32(bytes);
  }
  static Int dot(Int sum, Int weights, Int x) {
    return vdotq_s32(sum, vreinterpretq_s8_s32(weights), vreinterpretq_s8_s32(x));
  }
  static Int subtract(Int a, Int b) { return vsubq_s32(a, b); }
  static Float to_float(Int x) { return vcvtq_f32_s32(x); }
  static Float mul(Float a, Float b) { return vmulq_f32(a, b); }
  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static Float load_half(const uint8_t* from) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from))); }
  static Float load_f32(const float* from) { return vld1q_f32(from); }
  static void store_f32(float* to, Float x) { vst1q_f32(to, x); }
  static void prefetch(const uint8_t* from) { __builtin_prefetch(from); }
};

// One row of W as the file stores it (q8_0) times rows of x: 4 partial sums along k, added in one order.
template <int kRows>
int64_t stored_rows(const StoredArgs& a, int64_t row) {
  const int64_t k = a.rows.k, groups = a.rows.groups;
  for (int64_t column = 0; column < a.columns; ++column) {
    const uint8_t* block = static_cast<const uint8_t*>(a.weights) + static_cast<size_t>(column) * a.row_bytes;
    const int8_t* q = a.rows.q + row * k;
    const float* scale = a.rows.scale + row * groups;
    float32x4_t y[kRows];
    each<kRows>([&](auto r) __attribute__((always_inline)) { y[r] = vdupq_n_f32(0); });
    for (int64_t g = 0; g < groups; ++g, block += 34, q += 32) {
      __builtin_prefetch(block + kStoredPrefetchBytes);
      const int8x16_t w0 = vreinterpretq_s8_u8(vld1q_u8(block + 2));
      const int8x16_t w1 = vreinterpretq_s8_u8(vld1q_u8(block + 18));
      const float w_scale = vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(block))), 0);
      each<kRows>([&](auto r) __attribute__((always_inline)) {
        const int32x4_t dot =
            vdotq_s32(vdotq_s32(vdupq_n_s32(0), w0, vld1q_s8(q + r * k)), w1, vld1q_s8(q + r * k + 16));
        y[r] = vfmaq_n_f32(y[r], vcvtq_f32_s32(dot), w_scale * scale[r * groups + g]);
      });
    }
    each<kRows>([&](auto r) __attribute__((always_inline)) {
      const float sum = vaddvq_f32(y[r]);
      a.y[(row + r) * a.y_stride + column] = a.bias != nullptr ? sum + a.bias[column] : sum;
    });
  }
  return row + kRows;
}

void stored_int8(const StoredArgs* a) {
  int64_t row = 0;
  while (row + 4 <= a->m) row = stored_rows<4>(*a, row);
  while (row < a->m) row = stored_rows<1>(*a, row);
}

}  // namespace

const MatmulKernels kMatmulDotprod = {v2::quantize_rows, dot_int4<Neon>,   v2::int4_exact, dot_int8<Neon>,
                                      v2::int8_exact,    v2::stored_exact, stored_int8};

}  // namespace crosscurrent::cpu
