import { defineOp, f32, optional, state } from './define.js';

/**
 * Mamba-1 recurrence, per channel and state: `Δ = softplus(dt + dt_bias)`, `h = exp(Δ·a)·h + Δ·b·x`, `y = (Σ_n c_n·h_n + d·x) · silu(z)`.
 *
 * State and decay are f32; `h` [channels, states] starts at zero for a new sequence.
 *
 * @see Gu & Dao 2023, arXiv:2312.00752, eq. 2a and algorithm 2
 */
export const selectiveScan = defineOp('selective_scan', {
  inputs: {
    x: f32('t', 'channels'),
    dt: f32('t', 'channels'),
    dt_bias: f32('channels'),
    a: f32('channels', 'states'),
    b: f32('t', 'states'),
    c: f32('t', 'states'),
    d: f32('channels'),
    z: optional(f32('t', 'channels')),
    h: state('scan'),
  },
  attrs: {},
  outputs: { y: f32('t', 'channels') },
});
