import type { activations } from '../../ops/act-mul.js';
import { actMul, add, embedding, gatedRmsNorm, gatherRows, rmsNorm, rope } from '../ops.js';
import * as reference from '../reference/index.js';
import { sample, topProbabilities } from '../sample.js';
import { bytesOf, type KernelCase, Random } from './case.js';

const name = (axes: object): string =>
  Object.entries(axes)
    .map(([axis, size]) => `${axis} ${size}`)
    .join(', ');

export function rmsNormCase(axes: { rows: number; groups: number; width: number }, hasWeight = true): KernelCase {
  const { rows, groups, width } = axes;
  const random = new Random(1);
  const x = random.floats(rows * groups * width, -2, 2);
  const weight = hasWeight ? random.floats(width) : undefined;
  const out = { y: new Float32Array(x.length) };
  return {
    op: 'rmsNorm',
    label: name(axes),
    axes: { ...axes, hasWeight },
    tolerance: 2e-6,
    bytes: bytesOf(x, weight, out.y),
    flops: 4 * x.length,
    run: (options) => rmsNorm({ x, weight, width, eps: 1e-5, shape: { groups }, out, ...options }),
    expected: () => ({ y: reference.rmsNorm(x, weight, width, Math.fround(1e-5)) }),
  };
}

export function gatedRmsNormCase(axes: { rows: number; groups: number; width: number }): KernelCase {
  const { rows, groups, width } = axes;
  const random = new Random(2);
  const [x, z] = [random.floats(rows * groups * width, -2, 2), random.floats(rows * groups * width, -4, 4)];
  const weight = random.floats(groups * width);
  const out = { y: new Float32Array(x.length) };
  return {
    op: 'gatedRmsNorm',
    label: name(axes),
    tolerance: 3e-6,
    bytes: bytesOf(x, z, weight, out.y),
    flops: 10 * x.length,
    run: (options) => gatedRmsNorm({ x, z, weight, width, eps: 1e-5, out, ...options }),
    expected: () => ({ y: reference.gatedRmsNorm(x, z, weight, width, Math.fround(1e-5)) }),
  };
}

export function addCase(axes: { rows: number; dim: number }): KernelCase {
  const random = new Random(3);
  const [a, b] = [random.floats(axes.rows * axes.dim), random.floats(axes.rows * axes.dim)];
  const out = { y: new Float32Array(a.length) };
  return {
    op: 'add',
    label: name(axes),
    tolerance: 1e-6,
    bytes: bytesOf(a, b, out.y),
    flops: 2 * a.length,
    run: (options) => add({ a, b, scale: 0.3, shape: axes, out, ...options }),
    expected: () => ({ y: reference.add(a, b, Math.fround(0.3)) }),
  };
}

export function actMulCase(
  axes: { rows: number; ff: number },
  activation: (typeof activations)[number] = 'silu',
  hasUp = true,
): KernelCase {
  const random = new Random(4);
  const gate = random.floats(axes.rows * axes.ff, -6, 6);
  const up = hasUp ? random.floats(axes.rows * axes.ff) : undefined;
  const out = { y: new Float32Array(gate.length) };
  return {
    op: 'actMul',
    label: `${name(axes)}, ${activation}`,
    tolerance: 2e-6,
    bytes: bytesOf(gate, up, out.y),
    flops: 8 * gate.length,
    run: (options) => actMul({ gate, up, activation, shape: axes, out, ...options }),
    expected: () => ({ y: reference.actMul(gate, up, activation) }),
  };
}

export function ropeCase(
  axes: { t: number; heads: number; headDim: number; half: number },
  interleaved = false,
): KernelCase {
  const { t, heads, headDim, half } = axes;
  const random = new Random(5);
  const x = random.floats(t * heads * headDim);
  const position = Int32Array.from({ length: t }, (_, i) => 7 * i);
  const invFreq = Float32Array.from({ length: half }, (_, i) => 10000 ** (-i / half));
  const out = { y: new Float32Array(x.length) };
  return {
    op: 'rope',
    label: name(axes),
    tolerance: 2e-6,
    bytes: bytesOf(x, out.y),
    flops: 6 * t * heads * half,
    run: (options) => rope({ x, position, invFreq, headDim, interleaved, scale: 1.25, out, ...options }),
    expected: () => ({ y: reference.rope(x, position, invFreq, { heads, headDim, interleaved, scale: 1.25 }) }),
  };
}

export function gatherRowsCase(axes: { t: number; rows: number; dim: number }): KernelCase {
  const random = new Random(6);
  const x = random.floats(axes.t * axes.dim);
  const index = random.ints(axes.rows, axes.t);
  const out = { y: new Float32Array(axes.rows * axes.dim) };
  return {
    op: 'gatherRows',
    label: name(axes),
    axes,
    tolerance: 0,
    bytes: 2 * bytesOf(out.y),
    flops: 0,
    run: (options) => gatherRows({ x, index, out, ...options }),
    expected: () => ({ y: reference.gather(x, index, axes.dim) }),
  };
}

export function embeddingCase(axes: { t: number; vocab: number; dim: number }): KernelCase {
  const random = new Random(7);
  const weight = random.floats(axes.vocab * axes.dim);
  const ids = random.ints(axes.t, axes.vocab);
  const out = { y: new Float32Array(axes.t * axes.dim) };
  return {
    op: 'embedding',
    label: name(axes),
    tolerance: 1e-7,
    bytes: 2 * bytesOf(out.y),
    flops: axes.t * axes.dim,
    run: (options) => embedding({ ids, weight, scale: 2.5, shape: { dim: axes.dim }, out, ...options }),
    expected: () => ({ y: reference.gather(weight, ids, axes.dim, 2.5) }),
  };
}

/** Greedy rows: the one choice that is not a matter of chance. */
export function sampleCase(axes: { rows: number; vocab: number }): KernelCase {
  const random = new Random(8);
  const logits = random.floats(axes.rows * axes.vocab, -8, 8);
  const out = { ids: new Int32Array(axes.rows) };
  return {
    op: 'sample',
    label: name(axes),
    axes,
    tolerance: 0,
    bytes: bytesOf(logits),
    flops: logits.length,
    run: (options) => sample({ logits, shape: axes, out, ...options }),
    expected: () => ({
      ids: Int32Array.from({ length: axes.rows }, (_, row) => {
        const options = { temperature: 0, topK: 0, topP: 1, minP: 0 };
        return reference.distribution(logits.subarray(row * axes.vocab, (row + 1) * axes.vocab), options)[0]![0];
      }),
    }),
  };
}

export function topProbabilitiesCase(axes: { rows: number; vocab: number; topK: number }): KernelCase {
  const { rows, vocab, topK } = axes;
  const random = new Random(9);
  const logits = random.floats(rows * vocab, -8, 8);
  const out = { y: new Float32Array(2 * rows * topK) };
  return {
    op: 'topProbabilities',
    label: name(axes),
    axes,
    tolerance: 2e-6,
    bytes: bytesOf(logits),
    flops: logits.length,
    run: (options) => topProbabilities({ logits, topK, temperature: 0.8, shape: { rows, vocab }, out, ...options }),
    expected: () => {
      const y = new Float64Array(out.y.length);
      for (let row = 0; row < rows; row++) {
        const options = { temperature: 0.8, topK: 0, topP: 1, minP: 0 };
        const all = reference.distribution(logits.subarray(row * vocab, (row + 1) * vocab), options);
        for (let i = 0; i < topK; i++) y.set(all[i] ?? [-1, 0], 2 * (row * topK + i));
      }
      return { y };
    },
  };
}
