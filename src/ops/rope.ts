import { defineOp, f32, i32 } from './define.js';

/**
 * Rotary position embedding of the first `2·half` elements of each head; the rest passes through.
 *
 * With `θ = position · inv_freq[i]` in f32 and the pair `(a, b)`: `a' = (a·cos θ - b·sin θ)·scale`, `b' = (b·cos θ + a·sin θ)·scale`. The pair
 * is `(i, i + half)`, or `(2i, 2i + 1)` when `interleaved`. `scale` is YaRN's attention factor, else 1.
 *
 * @see Su et al. 2021, arXiv:2104.09864, eq. 34
 */
export const rope = defineOp('rope', {
  inputs: { x: f32('t', 'heads*head_dim'), position: i32('t'), inv_freq: f32('half') },
  attrs: { head_dim: 'i32', interleaved: 'bool', scale: 'f32' },
  outputs: { y: f32('t', 'heads*head_dim') },
});
