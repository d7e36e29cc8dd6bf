import { defineOp, f32, state } from './define.js';

/**
 * Mamba-2 recurrence, per head: `Δ = clamp(softplus(dt + dt_bias), dt_min, dt_max)`, `S = exp(Δ·a)·S + Δ·x·bᵀ`, `y = S·c + d·x`.
 *
 * `b` and `c` are shared by the heads of a group (head h uses group ⌊h·groups/heads⌋). State and decay are f32; `S` is
 * [heads, head_dim, states].
 *
 * @see Dao & Gu 2024, arXiv:2405.21060, eq. 8 (scalar-identity structure)
 */
export const ssd = defineOp('ssd', {
  inputs: {
    x: f32('t', 'heads*head_dim'),
    dt: f32('t', 'heads'),
    dt_bias: f32('heads'),
    a: f32('heads'),
    b: f32('t', 'groups*states'),
    c: f32('t', 'groups*states'),
    d: f32('heads'),
    s: state('scan'),
  },
  attrs: { head_dim: 'i32', groups: 'i32', dt_min: 'f32', dt_max: 'f32' },
  outputs: { y: f32('t', 'heads*head_dim') },
});
