// causal_conv1d: y[t, c] = act(bias[c] + Σ_j weight[c, j] · x[t - kernel + 1 + j, c]), prefill and decode
// step
#pragma once

#include <cuda_runtime.h>

#include "../dtype.h"
#include "launch.cuh"
#include "ssm_sequences.h"

namespace crosscurrent::cuda {

constexpr int kMaxConvKernel = 8;

enum class ConvActivation : int32_t { none, silu, gelu, relu2 };  // the numbers of Activation (ops.gen.h)

// Device pointers; x and y both bf16 or both f32, strides in elements from token to token.
struct CausalConv1dArgs {
  DType dtype;
  const void* x;        // [t, channels]
  const float* weight;  // [channels, kernel]
  const float* bias;    // [channels], or null
  float* window;        // [slots, kernel - 1, channels]: the last inputs, oldest first
  void* y;              // [t, channels]; not x
  int64_t x_stride, y_stride;
  int64_t channels;
  int32_t kernel;  // 2 to 8
  ConvActivation activation;
};

// Throw invalid_argument.
void causal_conv1d(const CausalConv1dArgs& args, const PrefillSequences& sequences, cudaStream_t stream);

// A node convolves over its own ancestors; pending: [channels] a node.
void causal_conv1d_step(const CausalConv1dArgs& args, const PendingRows& pending,
                        const DecodeSequences& sequences, cudaStream_t stream);

}  // namespace crosscurrent::cuda
