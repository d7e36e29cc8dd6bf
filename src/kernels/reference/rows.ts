// Ops whose rows are independent, in f64, from their formulas. They share no code with the kernels.
import type { Activation } from '../../ops/act-mul.js';

export type Numbers = ArrayLike<number>;

export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
export const softplus = (x: number): number => (x > 30 ? x : Math.log1p(Math.exp(x)));

export function activate(activation: Activation, x: number): number {
  if (activation === 'silu') return x * sigmoid(x);
  if (activation === 'gelu') return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  if (activation === 'relu2') return Math.max(x, 0) ** 2;
  return x;
}

/** `y = x / sqrt(mean(x²) + eps) · weight`, over groups of `width`; `weight` as long as a group or as a row. */
export function rmsNorm(x: Numbers, weight: Numbers | undefined, width: number, eps: number): Float64Array {
  const y = new Float64Array(x.length);
  for (let start = 0; start < x.length; start += width) {
    let squares = 0;
    for (let i = 0; i < width; i++) squares += x[start + i]! ** 2;
    const scale = 1 / Math.sqrt(squares / width + eps);
    for (let i = 0; i < width; i++)
      y[start + i] = x[start + i]! * scale * (weight ? weight[(start + i) % weight.length]! : 1);
  }
  return y;
}

/** `h = x · silu(z)`, then `rmsNorm`. */
export function gatedRmsNorm(x: Numbers, z: Numbers, weight: Numbers, width: number, eps: number): Float64Array {
  const h = Float64Array.from({ length: x.length }, (_, i) => x[i]! * activate('silu', z[i]!));
  return rmsNorm(h, weight, width, eps);
}

/** `y = act(gate) · up`. */
export const actMul = (gate: Numbers, up: Numbers | undefined, activation: Activation): Float64Array =>
  Float64Array.from({ length: gate.length }, (_, i) => activate(activation, gate[i]!) * (up ? up[i]! : 1));

/** `y = a + scale · b`. */
export const add = (a: Numbers, b: Numbers, scale: number): Float64Array =>
  Float64Array.from({ length: a.length }, (_, i) => a[i]! + scale * b[i]!);

export interface RopeShape {
  heads: number;
  headDim: number;
  interleaved: boolean;
  scale: number;
}

/** Pairs `(a, b)` to `((a·cos θ - b·sin θ)·scale, (b·cos θ + a·sin θ)·scale)`, `θ = position · invFreq[i]` in f32. */
export function rope(x: Numbers, position: Numbers, invFreq: Numbers, shape: RopeShape): Float64Array {
  const { heads, headDim, interleaved, scale } = shape;
  const y = Float64Array.from(x);
  const half = invFreq.length;
  for (let head = 0; head < position.length * heads; head++)
    for (let i = 0; i < half; i++) {
      const theta = Math.fround(Math.fround(position[Math.floor(head / heads)]!) * invFreq[i]!);
      const a = head * headDim + (interleaved ? 2 * i : i);
      const b = interleaved ? a + 1 : a + half;
      y[a] = (x[a]! * Math.cos(theta) - x[b]! * Math.sin(theta)) * scale;
      y[b] = (x[b]! * Math.cos(theta) + x[a]! * Math.sin(theta)) * scale;
    }
  return y;
}

/** `y[r, :] = scale · x[index[r], :]` of rows of `dim`. */
export const gather = (x: Numbers, index: Numbers, dim: number, scale = 1): Float64Array =>
  Float64Array.from(
    { length: index.length * dim },
    (_, i) => scale * x[index[Math.floor(i / dim)]! * dim + (i % dim)]!,
  );
