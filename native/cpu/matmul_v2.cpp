// matmul at the portable level: plain loops, the reading of each layout that the faster levels are checked
// against.
#include "simd/matmul_v2.h"

#include <math.h>
#include <string.h>

namespace crosscurrent::cpu::v2 {
namespace {

float half(const unsigned char* from) {
  uint16_t bits;
  memcpy(&bits, from, 2);
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 0) {
    const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
    return sign != 0 ? -subnormal : subnormal;
  }
  const uint32_t wide = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

float load_scale(int wide, const unsigned char* from, int column) {
  if (!wide) return half(from + column * 2);
  float value;
  memcpy(&value, from + column * 4, 4);
  return value;
}

void quantize_group(const float* x, int8_t* q, float* scale) {
  uint32_t largest =
      0;  // as bits: infinity and NaN win over every number, so they reach the scale and the output
  for (int i = 0; i < 32; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    if (bits > largest) largest = bits;
  }
  float amax;
  memcpy(&amax, &largest, 4);
  if (amax < 1e-35f) {  // 127 / amax would overflow
    memset(q, 0, 32);
    *scale = 0;
    return;
  }
  *scale = amax / 127.0f;
  const float inverse = 127.0f / amax;
  for (int i = 0; i < 32; ++i) {
    const float value = nearbyintf(x[i] * inverse);
    q[i] = value >= -127.0f && value <= 127.0f ? static_cast<int8_t>(value) : 0;
  }
}

// One record of one column: its integers with the zero removed, scale and min.
struct Record {
  int q[32];
  float scale, min;
};

Record read_record(const PanelArgs& a, int64_t g, int column, bool int4) {
  const unsigned char* at =
      static_cast<const unsigned char*>(a.panel) + static_cast<size_t>(g) * a.record_bytes;
  const int scale_bytes = a.wide_scales ? 64 : 32;
  Record record;
  record.scale = load_scale(a.wide_scales, at, column);
  at += scale_bytes;
  record.min = 0;
  if (a.has_min) {
    record.min = load_scale(a.wide_scales, at, column);
    at += scale_bytes;
  }
  const int zero = int4 && !a.has_min ? 8 : 0;
  for (int i = 0; i < a.group; ++i) {
    if (int4) {
      record.q[i] = (at[i / 8 * 64 + column * 4 + i % 4] >> (i % 8 < 4 ? 0 : 4) & 15) - zero;
    } else {
      record.q[i] = static_cast<int8_t>(at[i / 4 * 64 + column * 4 + i % 4]);
    }
  }
  return record;
}

void panel_int8(const PanelArgs& a, bool int4) {
  for (int64_t r = 0; r < a.m; ++r) {
    for (int c = 0; c < a.columns; ++c) {
      float sum = 0;
      for (int64_t g = 0; g < a.records; ++g) {
        const Record record = read_record(a, g, c, int4);
        const int64_t at = r * a.rows.groups + g * a.group / 32;
        const int8_t* q = a.rows.q + r * a.rows.k + g * a.group;
        int32_t dot = 0;
        for (int i = 0; i < a.group; ++i) dot += record.q[i] * q[i];
        sum += static_cast<float>(dot) * (record.scale * a.rows.scale[at]);
        if (a.has_min) sum += record.min * a.rows.sum[at];
      }
      a.y[r * a.y_stride + c] = a.bias != nullptr ? sum + a.bias[c] : sum;
    }
  }
}

void panel_exact(const PanelArgs& a, bool int4) {
  for (int64_t r = 0; r < a.m; ++r) {
    for (int c = 0; c < a.columns; ++c) {
      float sum = 0;
      for (int64_t g = 0; g < a.records; ++g) {
        const Record record = read_record(a, g, c, int4);
        const float* x = a.x + r * a.x_stride + g * a.group;
        for (int i = 0; i < a.group; ++i)
          sum += x[i] * (static_cast<float>(record.q[i]) * record.scale + record.min);
      }
      a.y[r * a.y_stride + c] = a.bias != nullptr ? sum + a.bias[c] : sum;
    }
  }
}

float stored_value(StoredType type, const unsigned char* row, int64_t i) {
  switch (type) {
    case kStoredF16: return half(row + 2 * i);
    case kStoredQ8_0: {
      const unsigned char* block = row + i / 32 * 34;
      return half(block) * static_cast<float>(static_cast<int8_t>(block[2 + i % 32]));
    }
    case kStoredBf16: {
      uint16_t high;
      memcpy(&high, row + 2 * i, 2);
      const uint32_t bits = static_cast<uint32_t>(high) << 16;
      float value;
      memcpy(&value, &bits, 4);
      return value;
    }
    default: {
      float value;
      memcpy(&value, row + 4 * i, 4);
      return value;
    }
  }
}

}  // namespace

void quantize_rows(const float* x, int64_t x_stride, int64_t m, const RowQuantView* rows) {
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t g = 0; g < rows->groups; ++g) {
      int8_t* q = rows->q + r * rows->k + g * 32;
      const int64_t at = r * rows->groups + g;
      quantize_group(x + r * x_stride + g * 32, q, rows->scale + at);
      int32_t sum = 0;
      for (int i = 0; i < 32; ++i) sum += q[i];
      rows->sum[at] = rows->scale[at] * static_cast<float>(sum);
      rows->sum8[at] = 8 * sum;
    }
  }
}

void int4(const PanelArgs* a) { panel_int8(*a, true); }
void int8(const PanelArgs* a) { panel_int8(*a, false); }
void int4_exact(const PanelArgs* a) { panel_exact(*a, true); }
void int8_exact(const PanelArgs* a) { panel_exact(*a, false); }

void stored_exact(const StoredArgs* a) {
  for (int64_t c = 0; c < a->columns; ++c) {
    const unsigned char* row =
        static_cast<const unsigned char*>(a->weights) + static_cast<size_t>(c) * a->row_bytes;
    for (int64_t r = 0; r < a->m; ++r) {
      float sum = 0;
      for (int64_t i = 0; i < a->k; ++i) sum += a->x[r * a->x_stride + i] * stored_value(a->type, row, i);
      a->y[r * a->y_stride + c] = a->bias != nullptr ? sum + a->bias[c] : sum;
    }
  }
}

void stored_int8(const StoredArgs* a) {
  for (int64_t c = 0; c < a->columns; ++c) {
    const unsigned char* row =
        static_cast<const unsigned char*>(a->weights) + static_cast<size_t>(c) * a->row_bytes;
    for (int64_t r = 0; r < a->m; ++r) {
      float sum = 0;
      for (int64_t g = 0; g < a->rows.groups; ++g) {
        const unsigned char* block = row + g * 34;
        const int8_t* q = a->rows.q + r * a->rows.k + g * 32;
        int32_t dot = 0;
        for (int i = 0; i < 32; ++i) dot += static_cast<int8_t>(block[2 + i]) * q[i];
        sum += static_cast<float>(dot) * (half(block) * a->rows.scale[r * a->rows.groups + g]);
      }
      a->y[r * a->y_stride + c] = a->bias != nullptr ? sum + a->bias[c] : sum;
    }
  }
}

}  // namespace crosscurrent::cpu::v2

namespace crosscurrent::cpu {

const MatmulKernels kMatmulV2 = {v2::quantize_rows, v2::int4,         v2::int4_exact, v2::int8,
                                 v2::int8_exact,    v2::stored_exact, v2::stored_int8};

}  // namespace crosscurrent::cpu
