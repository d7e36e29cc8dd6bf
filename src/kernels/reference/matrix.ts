// Matrix products, experts and their choice, in f64, from their formulas.
import type { Activation } from '../../ops/act-mul.js';
import { activate, type Numbers, sigmoid } from './rows.js';

/** `y = scale · (x · weightᵀ + bias) + residual`; weight is [out, in], a matrix of the stack from `offset` on. */
export function linear(
  x: Numbers,
  weight: Numbers,
  shape: { in: number; out: number },
  more: { bias?: Numbers; residual?: Numbers; scale?: number; offset?: number } = {},
): Float64Array {
  const { bias, residual, scale = 1, offset = 0 } = more;
  const rows = x.length / shape.in;
  const y = new Float64Array(rows * shape.out);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < shape.out; column++) {
      let sum = bias ? bias[column]! : 0;
      for (let i = 0; i < shape.in; i++) sum += x[row * shape.in + i]! * weight[offset + column * shape.in + i]!;
      y[row * shape.out + column] = scale * sum + (residual ? residual[row * shape.out + column]! : 0);
    }
  return y;
}

/** Activations as the int8 kernels see them: 32 values share a scale, `max|x| / 127`; the arithmetic is that of f32. */
export function roundActivations(x: Numbers): Float64Array {
  const y = Float64Array.from(x);
  for (let start = 0; start < y.length; start += 32) {
    let largest = 0;
    for (let i = start; i < start + 32; i++) largest = Math.max(largest, Math.abs(y[i]!));
    if (largest === 0) continue;
    const [scale, inverse] = [Math.fround(largest / 127), Math.fround(127 / largest)];
    for (let i = start; i < start + 32; i++) y[i] = roundEven(Math.fround(y[i]! * inverse)) * scale;
  }
  return y;
}

function roundEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

export interface MoeShape {
  dim: number;
  ff: number;
  topK: number;
  activation: Activation;
  /** What happens to activations before each product. */
  round?: (x: Numbers) => Float64Array;
}

/** `y = Σ_k weights[k] · down[e_k] · (act(gate[e_k]·x) · (up[e_k]·x))`. */
export function moe(
  x: Numbers,
  ids: Numbers,
  weights: Numbers,
  gate: Numbers,
  up: Numbers | undefined,
  down: Numbers,
  { dim, ff, topK, activation, round = (values) => Float64Array.from(values) }: MoeShape,
): Float64Array {
  const y = new Float64Array(x.length);
  for (let pair = 0; pair < ids.length; pair++) {
    const token = Math.floor(pair / topK);
    const offset = ids[pair]! * ff * dim;
    const row = round(Array.from({ length: dim }, (_, i) => x[token * dim + i]!));
    const hidden = linear(row, gate, { in: dim, out: ff }, { offset }).map((g) => activate(activation, g));
    if (up)
      linear(row, up, { in: dim, out: ff }, { offset }).forEach((u, i) => {
        hidden[i] = hidden[i]! * u;
      });
    linear(round(hidden), down, { in: ff, out: dim }, { offset }).forEach((value, i) => {
      y[token * dim + i] = y[token * dim + i]! + weights[pair]! * value;
    });
  }
  return y;
}

export interface RouterShape {
  experts: number;
  topK: number;
  rule: 'softmax_topk' | 'topk_softmax' | 'sigmoid';
  renormalize: boolean;
  scale: number;
}

/** The best experts of each token, in falling order of score, ties to the lower index, and their weights. */
export function router(logits: Numbers, bias: Numbers | undefined, shape: RouterShape) {
  const { experts, topK, rule, renormalize, scale } = shape;
  const tokens = logits.length / experts;
  const ids = new Int32Array(tokens * topK);
  const weights = new Float64Array(tokens * topK);
  for (let token = 0; token < tokens; token++) {
    const row = Array.from({ length: experts }, (_, i) => logits[token * experts + i]!);
    const score = rule === 'sigmoid' ? row.map((x, i) => sigmoid(x) + (bias ? bias[i]! : 0)) : row;
    const best = row
      .map((_, i) => i)
      .sort((a, b) => score[b]! - score[a]! || a - b)
      .slice(0, topK);
    const exp = (i: number): number => (rule === 'sigmoid' ? sigmoid(row[i]!) : Math.exp(row[i]! - Math.max(...row)));
    const over = rule === 'softmax_topk' ? row.map((_, i) => i) : best;
    const total = rule === 'sigmoid' ? 1 : over.reduce((sum, i) => sum + exp(i), 0);
    const chosen = best.map((i) => exp(i) / total);
    const sum = chosen.reduce((a, b) => a + b, 0);
    ids.set(best, token * topK);
    weights.set(
      chosen.map((w) => (renormalize ? w / sum : w) * scale),
      token * topK,
    );
  }
  return { ids, weights };
}
