import { defineOp, f32, matrix, optional } from './define.js';

/**
 * `y = scale · (x · weightᵀ + bias) + residual`.
 *
 * Weights are decoded exactly. Activations stay f32 when the session's activations are `exact` or `exact` is set here, else they
 * are rounded to int8 with one f32 scale per 32 values. Sums are f32, in one order over `in`: a row's bits do not depend on `rows`.
 */
export const linear = defineOp('linear', {
  inputs: {
    x: f32('rows', 'in'),
    weight: matrix('out', 'in'),
    bias: optional(f32('out')),
    residual: optional(f32('rows', 'out')),
  },
  attrs: { scale: 'f32', exact: 'bool' },
  outputs: { y: f32('rows', 'out') },
});
