// Attention in f64, from its formula, one query at a time.
import type { Numbers } from './rows.js';

/** Rows of `headDim` numbers as a cache of the type keeps them. */
export function keptRows(rows: Numbers, headDim: number, kv: 'f32' | 'f16' | 'bf16' | 'int8'): Float64Array {
  if (kv === 'f16') return Float64Array.from(rows, (value) => toBits(value, 10, -14));
  if (kv === 'bf16') return Float64Array.from(rows, (value) => toBits(value, 7, -126));
  const kept = Float64Array.from(rows);
  if (kv === 'f32') return kept;
  for (let at = 0; at < kept.length; at += headDim) {
    const row = kept.subarray(at, at + headDim);
    const scale = Math.fround(row.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 127);
    row.forEach((value, i) => {
      row[i] = scale > 0 ? toEven(Math.fround(value / scale)) * scale : 0;
    });
  }
  return kept;
}

/** The nearest whole number, the even one of two. */
function toEven(value: number): number {
  const low = Math.floor(value);
  const above = value - low;
  return above > 0.5 || (above === 0.5 && low % 2 !== 0) ? low + 1 : low;
}

/** The nearest number with `bits` binary digits after its first, whose exponent is no less than `least`. */
function toBits(value: number, bits: number, least: number): number {
  if (value === 0) return 0;
  const step = 2 ** (Math.max(Math.floor(Math.log2(Math.abs(value))), least) - bits);
  return toEven(value / step) * step;
}

export interface AttentionShape {
  heads: number;
  kvHeads: number;
  headDim: number;
  scale: number;
  window: number;
  softcap: number;
  causal: boolean;
  /** [seqs + 1] */
  first: Numbers;
  firstKey: Numbers;
  /** [heads] */
  alibi?: Numbers | undefined;
}

/** `y = softmax(scale · q·kᵀ + slope · (j - i) + mask) · v`; the queries of a sequence are its last tokens. */
export function flashAttention(
  q: Numbers,
  k: Numbers,
  v: Numbers,
  sinks: Numbers | undefined,
  shape: AttentionShape,
): Float64Array {
  const { heads, kvHeads, headDim, scale, window, softcap, causal, first, firstKey, alibi } = shape;
  const y = new Float64Array(q.length);
  for (let seq = 0; seq + 1 < first.length; seq++) {
    const [begin, end, firstRow] = [first[seq]!, first[seq + 1]!, firstKey[seq]!];
    const keys = firstKey[seq + 1]! - firstRow;
    for (let query = begin; query < end; query++) {
      const position = causal ? keys - (end - query) : keys - 1;
      const lowest = window > 0 ? Math.max(0, position - window + 1) : 0;
      for (let head = 0; head < heads; head++) {
        const at = (query * heads + head) * headDim;
        const place = (key: number): number =>
          ((firstRow + key) * kvHeads + Math.floor((head * kvHeads) / heads)) * headDim;
        const scores: number[] = [];
        for (let key = lowest; key <= position; key++) {
          let dot = 0;
          for (let d = 0; d < headDim; d++) dot += q[at + d]! * k[place(key) + d]!;
          const score = softcap > 0 ? softcap * Math.tanh((scale * dot) / softcap) : scale * dot;
          scores.push(score + (alibi ? alibi[head]! * (key - position) : 0));
        }
        const sink = sinks ? sinks[head]! : Number.NEGATIVE_INFINITY;
        const largest = scores.reduce((a, b) => Math.max(a, b), sink);
        const weights = scores.map((score) => Math.exp(score - largest));
        const total = weights.reduce((a, b) => a + b, Math.exp(sink - largest));
        weights.forEach((weight, i) => {
          for (let d = 0; d < headDim; d++) y[at + d] = y[at + d]! + (weight / total) * v[place(lowest + i) + d]!;
        });
      }
    }
  }
  return y;
}
