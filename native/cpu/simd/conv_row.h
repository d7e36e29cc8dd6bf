// One token of causal_conv1d, a register of channels at a time
#pragma once

#include "../act_mul_kernels.h"
#include "../state_kernels.h"
#include "recurrence_math.h"

namespace crosscurrent::cpu {
namespace {

// [channels, kernel] -> [kernel, channels]: the checkpoint's order has no two channels side by side
void conv_weights(const float* weight, int64_t stride, int64_t channels, int kernel, float* out,
                  int64_t out_stride) {
  int64_t channel = 0;
  if (kernel == 4 && stride == 4) {
    for (; channel + kLanes < channels;
         channel += kLanes) {  // not the last channels: a load reads one beyond its own
      F32x8 rows[8];
      for (int i = 0; i < 8; ++i) rows[i] = load8(weight + (channel + i) * 4);
      transpose8(rows);
      for (int j = 0; j < 4; ++j) store8(out + j * out_stride + channel, rows[j]);
    }
  }
  for (; channel < channels; ++channel)
    for (int j = 0; j < kernel; ++j) out[j * out_stride + channel] = weight[channel * stride + j];
}

template <Wide (*act)(Wide)>
inline Wide conv_lanes(const ConvRow& a, int64_t channel, int count) {
  Wide sum = a.bias != nullptr ? load_up_to(a.bias + channel, count) : Wide{};
  for (int j = 0; j < a.kernel; ++j)
    sum = fma_wide(load_up_to(a.weight + j * a.weight_stride + channel, count),
                   load_up_to(a.taps[j] + channel, count), sum);
  return act(sum);
}

template <Wide (*act)(Wide)>
void conv_channels(const ConvRow& a) {
  int64_t channel = 0;
  for (; channel + kWideLanes <= a.count; channel += kWideLanes)
    store_wide(a.y + channel, conv_lanes<act>(a, channel, kWideLanes));
  if (const int rest = static_cast<int>(a.count - channel); rest > 0)
    store_wide_part(a.y + channel, conv_lanes<act>(a, channel, rest), rest);
}

void conv_row(const ConvRow* a) {
  switch (a->activation) {
    case kActivationSilu: return conv_channels<silu_of<Wide>>(*a);
    case kActivationGelu: return conv_channels<gelu>(*a);
    case kActivationRelu2: return conv_channels<relu2>(*a);
    default: return conv_channels<identity>(*a);
  }
}

}  // namespace
}  // namespace crosscurrent::cpu
