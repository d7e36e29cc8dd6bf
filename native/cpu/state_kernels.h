// The inner loops of causal_conv1d, selective_scan and ssd, one table an instruction-set level. Plain structs
// (see isa.h).
//
// Every loop gives an element the same bits wherever it stands: in a full vector or a tail, in a long call or
// a short one.
#pragma once

#include <stdint.h>

namespace crosscurrent::cpu {

// The numbers of `Activation` (ops.gen.h), which level files cannot include.
enum { kActivationNone, kActivationSilu, kActivationGelu, kActivationRelu2 };

constexpr int kMaxConvKernel = 8;

// One token of causal_conv1d: y[c] = act(bias[c] + Σ_j weight[j, c] · taps[j][c]).
struct ConvRow {
  const float* taps[kMaxConvKernel];  // oldest first
  const float* weight;                // [kernel, channels], row stride `weight_stride`
  int64_t weight_stride;
  const float* bias;  // or null
  float* y;
  int64_t count;
  int kernel;
  int activation;
};

// Channels side by side: [channels, states] becomes tiles of [states, kScanTile], or of half of them where a
// register holds eight.
constexpr int kScanTile = 16;
constexpr int kScanChannels = 64;  // most channels of a call

// Tokens [0, count) of selective_scan on at most kScanChannels channels; pointers are to the first of them.
struct ScanRows {
  const float *x, *dt, *b;
  int64_t x_stride, dt_stride, b_stride;
  const float *c, *z;  // z may be null
  int64_t c_stride, z_stride;
  float* y;  // null: only the state is wanted
  int64_t y_stride;
  int64_t count, states;
  int channels;
  const float* a;            // tiles, times log2(e)
  const float *dt_bias, *d;  // [channels]
  const float* from;         // state before, tiles
  float* to;                 // and after; may be `from`
};

// Tokens [0, count) of ssd on `rows` rows of one head's state.
struct SsdRows {
  const float *x, *b;
  int64_t x_stride, b_stride;
  const float *delta, *decay;  // of the head
  int64_t delta_stride;        // of both
  const float* c;
  int64_t c_stride;
  float* y;  // null: only the state is wanted
  int64_t y_stride;
  int64_t count, rows, states;
  float d;
  const float* from;  // state before, [rows, states]
  float* to;          // and after; may be `from`
};

// delta = clamp(softplus(dt + bias)), decay = exp(delta · a), over the heads of one token.
struct SsdGates {
  const float *dt, *dt_bias, *a;
  float dt_min, dt_max;
  int64_t heads;
  float *delta, *decay;
};

struct StateKernels {
  void (*conv_weights)(const float* weight, int64_t stride, int64_t channels, int kernel, float* out,
                       int64_t out_stride);
  void (*conv_row)(const ConvRow*);
  // Rows [channels, states] times `scale` to tiles, where channels of the last one that do not exist are
  // zero, and back.
  void (*scan_load)(const float* rows, int64_t stride, int channels, int64_t states, float scale,
                    float* tiles);
  void (*scan_store)(const float* tiles, int channels, int64_t states, float* rows);
  void (*scan)(const ScanRows*);
  void (*ssd_gates)(const SsdGates*);
  void (*ssd)(const SsdRows*);
};

extern const StateKernels kStateKernelsV2;
extern const StateKernels kStateKernelsAvx2;
extern const StateKernels kStateKernelsAvx512Vnni;

// Of the active level.
const StateKernels& state_kernels();

}  // namespace crosscurrent::cpu
