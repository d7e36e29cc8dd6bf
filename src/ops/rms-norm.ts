import { defineOp, f32, optional } from './define.js';

/**
 * Root-mean-square norm of consecutive groups of `width` elements: `y = x / sqrt(mean(x²) + eps) · weight`.
 *
 * `width` equals `dim` for a whole row, the head size for a norm per head. The mean is accumulated in f32.
 *
 * @see Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4
 */
export const rmsNorm = defineOp('rms_norm', {
  inputs: { x: f32('rows', 'groups*width'), weight: optional(f32('width')) },
  attrs: { width: 'i32', eps: 'f32' },
  outputs: { y: f32('rows', 'groups*width') },
});
