import { activations } from './act-mul.js';
import { defineOp, f32, optional, state } from './define.js';

/**
 * Depthwise causal convolution: `y[t, c] = act(bias[c] + Σ_j weight[c, j] · x[t - kernel + 1 + j, c])`, where inputs before
 * the step come from the window of the sequence (oldest first), zeros before its start. A draft node convolves over its own ancestors.
 */
export const causalConv1d = defineOp('causal_conv1d', {
  inputs: {
    x: f32('t', 'channels'),
    weight: f32('channels', 'kernel'),
    bias: optional(f32('channels')),
    window: state('conv'),
  },
  attrs: { activation: activations },
  outputs: { y: f32('t', 'channels') },
});
