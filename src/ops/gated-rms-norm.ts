import { defineOp, f32 } from './define.js';

/**
 * Norm of a gated row, per group of `width` elements: `h = x · silu(z)`, `y = h / sqrt(mean(h²) + eps) · weight`.
 *
 * @see Dao & Gu 2024, arXiv:2405.21060, section 7.1 (the norm before the output projection of Mamba-2)
 */
export const gatedRmsNorm = defineOp('gated_rms_norm', {
  inputs: { x: f32('rows', 'groups*width'), z: f32('rows', 'groups*width'), weight: f32('groups*width') },
  attrs: { width: 'i32', eps: 'f32' },
  outputs: { y: f32('rows', 'groups*width') },
});
