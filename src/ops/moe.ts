import { activations } from './act-mul.js';
import { defineOp, f32, i32, matrix, optional } from './define.js';

/**
 * Mixture of expert MLPs: `y = Σ_k weights[k] · down[e_k] · (act(gate[e_k]·x) · (up[e_k]·x))`, `e_k = ids[k]`; without `up`: `down · act(gate·x)`.
 *
 * Tokens are grouped by expert; the sum over k is in rank order, so a row does not depend on the grouping.
 *
 * @throws INVALID_ARGUMENT when an id is not below `experts`.
 */
export const moe = defineOp('moe', {
  inputs: {
    x: f32('t', 'dim'),
    ids: i32('t', 'top_k'),
    weights: f32('t', 'top_k'),
    gate: matrix('experts', 'ff', 'dim'),
    up: optional(matrix('experts', 'ff', 'dim')),
    down: matrix('experts', 'dim', 'ff'),
  },
  attrs: { activation: activations },
  outputs: { y: f32('t', 'dim') },
});
