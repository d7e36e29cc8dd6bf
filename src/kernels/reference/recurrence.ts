// The ops with a recurrent state, in f64, from their formulas, one token at a time.
import type { Activation } from '../../ops/act-mul.js';
import { activate, type Numbers, softplus } from './rows.js';

/** `y[t, c] = act(bias[c] + Σ_j weight[c, j] · x[t - kernel + 1 + j, c])` of one sequence; `window`: the inputs before it. */
export function causalConv1d(
  x: Numbers,
  weight: Numbers,
  bias: Numbers | undefined,
  window: Numbers | undefined,
  shape: { channels: number; kernel: number; activation: Activation },
): { y: Float64Array; window: Float64Array } {
  const { channels, kernel, activation } = shape;
  const before = (kernel - 1) * channels;
  const all = Float64Array.from({ length: before + x.length }, (_, i) =>
    i < before ? (window ? window[i]! : 0) : x[i - before]!,
  );
  const y = Float64Array.from({ length: x.length }, (_, i) => {
    let sum = bias ? bias[i % channels]! : 0;
    for (let j = 0; j < kernel; j++) sum += weight[(i % channels) * kernel + j]! * all[i + j * channels]!;
    return activate(activation, sum);
  });
  return { y, window: all.slice(x.length) };
}

export interface ScanInputs {
  x: Numbers;
  dt: Numbers;
  dtBias: Numbers;
  a: Numbers;
  b: Numbers;
  c: Numbers;
  d: Numbers;
  z?: Numbers | undefined;
}

/** Mamba-1: `Δ = softplus(dt + dtBias)`, `h = exp(Δ·a)·h + Δ·b·x`, `y = (Σ_n c_n·h_n + d·x) · silu(z)`. */
export function selectiveScan(inputs: ScanInputs, start: Numbers | undefined): { y: Float64Array; h: Float64Array } {
  const { x, dt, dtBias, a, b, c, d, z } = inputs;
  const channels = d.length;
  const states = a.length / channels;
  const h = Float64Array.from({ length: a.length }, (_, i) => (start ? start[i]! : 0));
  const y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const channel = i % channels;
    const at = Math.floor(i / channels) * states;
    const delta = softplus(dt[i]! + dtBias[channel]!);
    let sum = d[channel]! * x[i]!;
    for (let n = 0; n < states; n++) {
      const k = channel * states + n;
      h[k] = Math.exp(delta * a[k]!) * h[k]! + delta * b[at + n]! * x[i]!;
      sum += c[at + n]! * h[k]!;
    }
    y[i] = sum * (z ? activate('silu', z[i]!) : 1);
  }
  return { y, h };
}

/** Mamba-2: `Δ = clamp(softplus(dt + dtBias))`, `S = exp(Δ·a)·S + Δ·x·bᵀ`, `y = S·c + d·x`. */
export function ssd(
  inputs: ScanInputs,
  start: Numbers | undefined,
  shape: { headDim: number; groups: number; states: number; dtMin: number; dtMax: number },
): { y: Float64Array; s: Float64Array } {
  const { x, dt, dtBias, a, b, c, d } = inputs;
  const { headDim, groups, states, dtMin, dtMax } = shape;
  const heads = d.length;
  const s = Float64Array.from({ length: heads * headDim * states }, (_, i) => (start ? start[i]! : 0));
  const y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const row = i % (heads * headDim);
    const token = Math.floor(i / (heads * headDim));
    const head = Math.floor(row / headDim);
    const at = (token * groups + Math.floor((head * groups) / heads)) * states;
    const delta = Math.min(Math.max(softplus(dt[token * heads + head]! + dtBias[head]!), dtMin), dtMax);
    const decay = Math.exp(delta * a[head]!);
    let sum = d[head]! * x[i]!;
    for (let n = 0; n < states; n++) {
      s[row * states + n] = decay * s[row * states + n]! + delta * x[i]! * b[at + n]!;
      sum += s[row * states + n]! * c[at + n]!;
    }
    y[i] = sum;
  }
  return { y, s };
}
