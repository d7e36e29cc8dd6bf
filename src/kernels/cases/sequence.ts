import type { KvType } from '../../ops/flash-attention.js';
import { flashAttention, flashAttentionDecode, KvCache } from '../attention.js';
import { causalConv1d, selectiveScan, ssd } from '../ops.js';
import * as reference from '../reference/index.js';
import { bytesOf, type KernelCase, Random } from './case.js';

export interface AttentionAxes {
  /** Queries and keys of each sequence. */
  seqs: readonly (readonly [queries: number, keys: number])[];
  heads: number;
  kvHeads: number;
  headDim: number;
  window?: number;
  softcap?: number;
  sinks?: boolean;
  alibi?: boolean;
  causal?: boolean;
  kv?: KvType;
}

const ranges = (counts: readonly number[]): Int32Array =>
  Int32Array.from([0, ...counts.map((_, i) => counts.slice(0, i + 1).reduce((a, b) => a + b, 0))]);

function attentionParts(axes: AttentionAxes) {
  const { heads, kvHeads, headDim, window = 0, softcap = 0, causal = true, kv = 'f32' } = axes;
  const random = new Random(21);
  const first = ranges(axes.seqs.map(([queries]) => queries));
  const firstKey = ranges(axes.seqs.map(([, keys]) => keys));
  const [t, keys] = [first.at(-1)!, firstKey.at(-1)!];
  const q = random.floats(t * heads * headDim);
  const [k, v] = [random.floats(keys * kvHeads * headDim), random.floats(keys * kvHeads * headDim)];
  const sinks = axes.sinks ? random.floats(heads) : undefined;
  const alibi = axes.alibi ? random.floats(heads, 0.01, 0.5) : undefined;
  const scale = Math.fround(1 / Math.sqrt(headDim));
  const kept = (rows: Float32Array) => reference.keptRows(rows, headDim, kv);
  const seen = axes.seqs.reduce((sum, [queries, n]) => {
    for (let i = 0; i < queries; i++) {
      const most = causal ? n - queries + i + 1 : n;
      sum += window > 0 ? Math.min(most, window) : most;
    }
    return sum;
  }, 0);
  return {
    args: { q, k, v, sinks, alibi, headDim, window, softcap },
    first,
    firstKey,
    out: { y: new Float32Array(q.length) },
    label: `${axes.seqs.map(([queries, n]) => `${queries}/${n}`).join(' ')}, ${heads}/${kvHeads} x ${headDim}${window ? `, window ${window}` : ''}${softcap ? `, cap ${softcap}` : ''}${sinks ? ', sinks' : ''}${alibi ? ', alibi' : ''}${causal ? '' : ', full'}${kv === 'f32' ? '' : `, ${kv}`}`,
    flops: 4 * seen * heads * headDim,
    bytes: bytesOf(q, k, v, q),
    expected: () => ({
      y: reference.flashAttention(q, kept(k), kept(v), sinks, {
        heads,
        kvHeads,
        headDim,
        scale,
        window,
        softcap,
        causal,
        first,
        firstKey,
        alibi,
      }),
    }),
  };
}

export function attentionCase(axes: AttentionAxes): KernelCase {
  const { args, first, firstKey, out, ...rest } = attentionParts(axes);
  const { causal = true, kv = 'f32' } = axes;
  return {
    op: 'flashAttention',
    axes,
    tolerance: 5e-6,
    ...rest,
    run: (options) => flashAttention({ ...args, causal, kv, first, firstKey, out, ...options }),
  };
}

/** One query a sequence, over arrays; over a cache where there is one sequence. */
export async function decodeCase(axes: AttentionAxes): Promise<KernelCase> {
  const { args, firstKey, out, first: _, ...rest } = attentionParts(axes);
  const { k, v, ...others } = args;
  const { kvHeads, headDim, kv = 'f32' } = axes;
  const shared = { op: 'flashAttentionDecode', tolerance: 5e-6, ...rest };
  if (axes.seqs.length > 1)
    return { ...shared, run: (options) => flashAttentionDecode({ ...args, kv, firstKey, out, ...options }) };
  const cache = await KvCache.create({ kvHeads, headDim, capacity: firstKey[1]!, dtype: kv });
  await cache.append({ k, v });
  return {
    ...shared,
    label: `${rest.label}, cache`,
    bytes: bytesOf(args.q, out.y) + cache.bytes,
    run: (options) => flashAttentionDecode({ ...others, cache, out, ...options }),
    dispose: () => cache.dispose(),
  };
}

export function convCase(axes: { t: number; channels: number; kernel: number }): KernelCase {
  const { t, channels, kernel } = axes;
  const random = new Random(22);
  const x = random.floats(t * channels);
  const weight = random.floats(channels * kernel);
  const bias = random.floats(channels);
  const window = random.floats((kernel - 1) * channels);
  const out = { y: new Float32Array(x.length), window: new Float32Array(window.length) };
  return {
    op: 'causalConv1d',
    label: `t ${t}, ${channels} channels, ${kernel} taps`,
    tolerance: 2e-6,
    bytes: bytesOf(x, weight, out.y),
    flops: 2 * kernel * x.length,
    run: (options) => causalConv1d({ x, weight, bias, window, activation: 'silu', out, ...options }),
    expected: () => reference.causalConv1d(x, weight, bias, window, { channels, kernel, activation: 'silu' }),
  };
}

export function scanCase(axes: { t: number; channels: number; states: number }, hasState = true): KernelCase {
  const { t, channels, states } = axes;
  const random = new Random(23);
  const inputs = {
    x: random.floats(t * channels),
    dt: random.floats(t * channels, -4, 1),
    dtBias: random.floats(channels),
    a: random.floats(channels * states, -4, -0.1),
    b: random.floats(t * states),
    c: random.floats(t * states),
    d: random.floats(channels),
    z: random.floats(t * channels, -3, 3),
  };
  const h = hasState ? random.floats(channels * states) : undefined;
  const out = { y: new Float32Array(t * channels), h: new Float32Array(channels * states) };
  return {
    op: 'selectiveScan',
    label: `t ${t}, ${channels} x ${states}`,
    tolerance: 5e-6,
    bytes: bytesOf(...Object.values(inputs), out.y, out.h, out.h),
    flops: 7 * t * channels * states,
    run: (options) => selectiveScan({ ...inputs, h, out, ...options }),
    expected: () => reference.selectiveScan(inputs, h),
  };
}

export interface SsdAxes {
  t: number;
  heads: number;
  headDim: number;
  groups: number;
  states: number;
}

export function ssdCase(axes: SsdAxes, hasState = true): KernelCase {
  const { t, heads, headDim, groups, states } = axes;
  const random = new Random(24);
  const inputs = {
    x: random.floats(t * heads * headDim),
    dt: random.floats(t * heads, -4, 1),
    dtBias: random.floats(heads),
    a: random.floats(heads, -4, -0.1),
    b: random.floats(t * groups * states),
    c: random.floats(t * groups * states),
    d: random.floats(heads),
  };
  const s = hasState ? random.floats(heads * headDim * states) : undefined;
  const out = { y: new Float32Array(t * heads * headDim), s: new Float32Array(heads * headDim * states) };
  const [dtMin, dtMax] = [Math.fround(0.001), 4];
  return {
    op: 'ssd',
    label: `t ${t}, ${heads} heads x ${headDim}, ${groups} groups x ${states}`,
    tolerance: 5e-6,
    bytes: bytesOf(...Object.values(inputs), out.y, out.s, out.s),
    flops: 5 * t * heads * headDim * states,
    run: (options) => ssd({ ...inputs, s, groups, dtMin, dtMax, out, ...options }),
    expected: () => reference.ssd(inputs, s, { headDim, groups, states, dtMin, dtMax }),
  };
}
