import { defineOp, f32, optional } from './define.js';

/** Names of the element-wise activations: `silu(g) = g·sigmoid(g)`, `gelu` (tanh form), `relu2(g) = max(g, 0)²`. */
export const activations = ['none', 'silu', 'gelu', 'relu2'] as const;
export type Activation = (typeof activations)[number];

/**
 * `y = act(gate) · up`, or `act(gate)` where there is no `up`.
 *
 * @see Shazeer 2020, arXiv:2002.05202 (SwiGLU); So et al. 2021, arXiv:2109.08668 (squared ReLU)
 */
export const actMul = defineOp('act_mul', {
  inputs: { gate: f32('rows', 'ff'), up: optional(f32('rows', 'ff')) },
  attrs: { activation: activations },
  outputs: { y: f32('rows', 'ff') },
});
