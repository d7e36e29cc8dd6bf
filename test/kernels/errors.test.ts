// Bad calls: a typed error that names the operand, what was expected and what was there.
import { describe, expect, it } from 'vitest';
import { CrosscurrentError } from '../../src/errors.js';
import * as kernels from '../../src/kernels/index.js';

const f = (length: number): Float32Array => new Float32Array(length).fill(0.5);
const i = (...values: number[]): Int32Array => Int32Array.from(values);
const loose = kernels as unknown as Record<string, (args: unknown) => Promise<unknown>>;
const norm = { x: f(12), weight: f(4), eps: 1e-5 };
const detached = (): Float32Array => {
  const array = f(12);
  structuredClone(array, { transfer: [array.buffer as ArrayBuffer] });
  return array;
};
const resizable = (): Float32Array =>
  new Float32Array(
    new (ArrayBuffer as unknown as new (n: number, o: object) => ArrayBuffer)(48, { maxByteLength: 96 }),
  );
const shared = f(24);
const attention = { q: f(32), k: f(16), v: f(16), headDim: 4, shape: { t: 4 } };
const scan = { x: f(6), dt: f(6), dtBias: f(3), a: f(6), b: f(4), c: f(4), d: f(3) };

/** Call, operand that the error names, what the message says. */
const cases: [string, unknown, string, RegExp][] = [
  ['rmsNorm', undefined, 'rmsNorm', /an object/],
  ['rmsNorm', { ...norm, x: undefined }, 'rmsNorm: x', /an array, got undefined/],
  ['rmsNorm', { ...norm, x: [1, 2] }, 'rmsNorm: x', /Float32Array, got a Array/],
  ['rmsNorm', { ...norm, x: new Float64Array(12) }, 'rmsNorm: x', /Float32Array, got a Float64Array/],
  ['rmsNorm', { ...norm, x: new DataView(new ArrayBuffer(48)) }, 'rmsNorm: x', /got a DataView/],
  ['rmsNorm', { ...norm, x: new Uint8Array(new ArrayBuffer(50), 1, 48) }, 'rmsNorm: x', /got a Uint8Array/],
  ['rmsNorm', { ...norm, x: f(0) }, 'rmsNorm: x', /elements, got none/],
  ['rmsNorm', { ...norm, x: detached() }, 'rmsNorm: x', /detached/],
  ['rmsNorm', { ...norm, x: resizable() }, 'rmsNorm: x', /fixed length, got a resizable/],
  ['rmsNorm', { ...norm, x: new Float32Array(new SharedArrayBuffer(48)) }, 'rmsNorm: x', /SharedArrayBuffer/],
  ['rmsNorm', { ...norm, x: f(13) }, 'rmsNorm: x', /a multiple of 4 elements .*width = 4.*, got 13/],
  ['rmsNorm', { ...norm, width: 3 }, 'rmsNorm: weight', /3 elements \(width = 3\), got 4/],
  ['rmsNorm', { ...norm, width: 0 }, 'rmsNorm: width', /1 or more, got 0/],
  ['rmsNorm', { ...norm, width: 2 ** 40 }, 'rmsNorm: width', /an integer/],
  ['rmsNorm', { ...norm, eps: Number.NaN }, 'rmsNorm: eps', /a number, got NaN/],
  ['rmsNorm', { ...norm, eps: 'x' }, 'rmsNorm: eps', /a number/],
  ['rmsNorm', { x: f(4), weight: f(4) }, 'rmsNorm: eps', /got undefined/],
  ['rmsNorm', { ...norm, wieght: f(4) }, 'rmsNorm: wieght', /no such/],
  ['rmsNorm', { ...norm, shape: { rows: 4 } }, 'rmsNorm: x', /rows = 4/],
  ['rmsNorm', { ...norm, shape: { rows: 1.5 } }, 'rmsNorm: shape', /an integer/],
  ['rmsNorm', { ...norm, shape: { heads: 2 } }, 'rmsNorm: shape', /rows, groups, width/],
  ['rmsNorm', { ...norm, shape: 3 }, 'rmsNorm: shape', /an object/],
  ['rmsNorm', { ...norm, threads: 0 }, 'rmsNorm: threads', /1\.\.256/],
  ['rmsNorm', { ...norm, threads: 1e9 }, 'rmsNorm: threads', /1\.\.256/],
  ['rmsNorm', { ...norm, isa: 'avx9000' }, 'isa', /v2.*avx9000/],
  ['rmsNorm', { ...norm, isa: 2 }, 'rmsNorm: isa', /a level/],
  ['rmsNorm', { ...norm, signal: {} }, 'rmsNorm: signal', /AbortSignal/],
  ['rmsNorm', { ...norm, out: { y: f(11) } }, 'rmsNorm: y', /12 elements.*11/],
  ['rmsNorm', { ...norm, out: { z: f(12) } }, 'rmsNorm: out', /y, got/],
  ['rmsNorm', { ...norm, out: { y: norm.x } }, 'rmsNorm: out.y', /apart from rmsNorm: x, got an overlap/],
  ['rmsNorm', { ...norm, x: shared.subarray(0, 12), out: { y: shared.subarray(11, 23) } }, 'rmsNorm: out.y', /overlap/],
  ['rmsNorm', { ...norm, first: i(0, 3) }, 'rmsNorm: first', /no sequences/],
  ['linear', { x: f(8), weight: f(16) }, 'linear: shape', /rows or in or out/],
  ['linear', { x: f(8), weight: f(16), shape: { in: 3 } }, 'linear: x', /a multiple of 3/],
  ['linear', { x: f(8), weight: f(16), shape: { in: 4 }, exact: 1 }, 'linear: exact', /a boolean/],
  [
    'linear',
    { x: f(8), weight: { dtype: 'q4', data: new Uint16Array(16) }, shape: { in: 4 } },
    'linear: weight',
    /f16 or bf16/,
  ],
  ['linear', { x: f(8), weight: { dtype: 'f16', data: f(16) }, shape: { in: 4 } }, 'linear: weight', /Uint16Array/],
  ['linear', { x: f(8), weight: 7, shape: { in: 4 } }, 'linear: weight', /packed weight/],
  ['linear', { x: f(8), weight: f(16), shape: { in: 4 }, bias: f(5) }, 'linear: bias', /4 elements \(out = 4\), got 5/],
  ['int4Matmul', { x: f(8), weight: f(16) }, 'int4Matmul: weight', /packInt4/],
  ['int8Matmul', { x: f(8), weight: null }, 'int8Matmul: weight', /packInt8/],
  ['embedding', { ids: i(1), weight: f(8), shape: { vocab: 2 ** 31 } }, 'embedding: weight', /multiple/],
  ['embedding', { ids: i(4), weight: f(8), shape: { vocab: 4 } }, 'embedding: ids', /0\.\.3, got 4/],
  ['embedding', { ids: i(-1), weight: f(8), shape: { vocab: 4 } }, 'embedding: ids', /0\.\.3, got -1/],
  ['embedding', { ids: f(1), weight: f(8), shape: { vocab: 4 } }, 'embedding: ids', /Int32Array/],
  ['gatherRows', { x: f(8), index: i(2), shape: { dim: 4 } }, 'gather_rows: index', /0\.\.1, got 2/],
  ['rope', { x: f(8), position: i(1), invFreq: f(5), headDim: 8 }, 'rope: invFreq', /1\.\.4, got 5/],
  ['rope', { x: f(9), position: i(1), invFreq: f(2), headDim: 4 }, 'rope: x', /multiple of 4/],
  ['actMul', { gate: f(4), activation: 'tanh' }, 'actMul: activation', /one of none, silu/],
  ['actMul', { gate: f(4), up: f(5), activation: 'silu' }, 'actMul: up', /4 elements/],
  ['router', { logits: f(8), topK: 5, rule: 'sigmoid', shape: { experts: 4 } }, 'router: topK', /1\.\.4, got 5/],
  ['router', { logits: f(8), topK: 0, rule: 'sigmoid', shape: { experts: 4 } }, 'router: topK', /1 or more/],
  [
    'router',
    { logits: f(8), topK: 2, rule: 'sigmoid', shape: { experts: 4 }, renormalize: 'yes' },
    'router: renormalize',
    /a boolean/,
  ],
  [
    'moe',
    { x: f(4), ids: i(2), weights: f(1), gate: f(16), down: f(16), shape: { experts: 2, dim: 4 } },
    'moe ids',
    /0\.\.1, got 2/,
  ],
  [
    'moe',
    { x: f(4), ids: i(0), weights: f(2), gate: f(16), down: f(16), shape: { experts: 2, topK: 1 } },
    'moe: weights',
    /1 elements/,
  ],
  ['flashAttention', { ...attention, headDim: undefined }, 'flashAttention: headDim', /an integer/],
  ['flashAttention', { ...attention, headDim: 0 }, 'flashAttention: headDim', /1 or more/],
  ['flashAttention', { ...attention, window: -1 }, 'flashAttention: window', /0 or more/],
  ['flashAttention', { ...attention, causal: false, window: 3 }, 'flashAttention: window', /causal is false/],
  ['flashAttention', { ...attention, causal: 0 }, 'flashAttention: causal', /a boolean/],
  ['flashAttention', { ...attention, q: f(48), k: f(32), v: f(32) }, 'flashAttention: q', /a multiple of 2, got 3/],
  ['flashAttention', { ...attention, v: f(12) }, 'flashAttention: v', /16 elements/],
  ['flashAttention', { ...attention, sinks: f(3) }, 'flashAttention: sinks', /heads = 2/],
  [
    'flashAttention',
    { ...attention, shape: {}, first: i(0, 2, 2, 4) },
    'flashAttention: first',
    /rising values, got 2/,
  ],
  ['flashAttention', { ...attention, shape: {}, first: i(1, 4) }, 'flashAttention: first', /0 and the end/],
  [
    'flashAttention',
    { ...attention, firstKey: i(0, 2), k: f(8), v: f(8) },
    'flashAttention: firstKey',
    /at least 4 keys/,
  ],
  ['flashAttention', { ...attention, firstKey: i(0, 1, 4) }, 'flashAttention: firstKey', /2 values/],
  ['flashAttentionDecode', { q: f(8), headDim: 4 }, 'flashAttentionDecode: k', /or a cache/],
  ['flashAttentionDecode', { q: f(8), k: f(16), v: f(16), headDim: 4 }, 'flashAttentionDecode: shape', /kvHeads/],
  [
    'flashAttention',
    { q: f(8), k: f(8), v: f(8), headDim: 4, alibi: f(3), shape: { t: 1 } },
    'flashAttention: alibi',
    /2/,
  ],
  ['flashAttention', { q: f(8), k: f(8), v: f(8), headDim: 4, kv: 'f8' }, 'flashAttention: kv', /f32, f16, bf16, int8/],
  ['flashAttentionDecode', { q: f(8), cache: {}, headDim: 4 }, 'flashAttentionDecode: cache', /a KvCache/],
  ['causalConv1d', { x: f(9), weight: f(3), shape: { channels: 3 } }, 'causalConv1d: kernel', /2\.\.8, got 1/],
  ['causalConv1d', { x: f(9), weight: f(27), shape: { channels: 3 } }, 'causalConv1d: kernel', /2\.\.8, got 9/],
  [
    'causalConv1d',
    { x: f(9), weight: f(12), shape: { channels: 3 }, window: f(8) },
    'causalConv1d: window',
    /9 elements, got 8/,
  ],
  ['selectiveScan', { ...scan, h: f(5) }, 'selectiveScan: h', /6 elements, got 5/],
  ['selectiveScan', { ...scan, out: { h: f(7) } }, 'selectiveScan: h', /6 elements, got 7/],
  ['selectiveScan', { ...scan, first: i(0, 1, 2), h: f(6) }, 'selectiveScan: h', /12 elements, got 6/],
  ['selectiveScan', { ...scan, first: i(0, 3) }, 'selectiveScan: dtBias', /3/],
  ['selectiveScan', { ...scan, first: new Int32Array(0) }, 'selectiveScan: first', /none/],
  [
    'selectiveScan',
    { ...scan, h: shared.subarray(0, 6), out: { h: shared.subarray(1, 7) } },
    'selectiveScan: out.h',
    /overlap/,
  ],
  [
    'ssd',
    { x: f(12), dt: f(3), dtBias: f(3), a: f(3), b: f(4), c: f(4), d: f(3), groups: 2 },
    'ssd: groups',
    /a divisor of 3 heads, got 2/,
  ],
  [
    'ssd',
    { x: f(12), dt: f(3), dtBias: f(3), a: f(3), b: f(4), c: f(4), d: f(3), groups: 0 },
    'ssd: groups',
    /1 or more/,
  ],
  ['sample', { logits: f(8), options: [{}, {}, {}] }, 'sample: logits', /3 rows/],
  ['sample', { logits: f(8), options: { temperature: -1 } }, 'sample: options.temperature', /0 or more/],
  ['sample', { logits: f(8), options: { topK: 1.5 } }, 'sample: options.topK', /an integer/],
  ['sample', { logits: f(8), options: { position: -1 } }, 'sample: options.position', /0 or more/],
  ['sample', { logits: f(8), options: { history: i(8), repetitionPenalty: 2 } }, 'step: history', /value < 8/],
  ['sample', { logits: f(8), options: { logitBias: { 8: 1 } } }, 'sample: options.logitBias', /0\.\.7/],
  ['topProbabilities', { logits: f(8), topK: 0 }, 'topProbabilities: topK', /./],
  [
    'topProbabilities',
    { logits: f(8), topK: 2, temperature: -1 },
    'topProbabilities: options.temperature',
    /0 or more/,
  ],
  ['sample', { logits: f(8), options: 4 }, 'sample: options', /an object/],
  ['packInt4', { weight: f(64), shape: { out: 2 }, group: 33 }, 'packInt4: group', /a multiple of 32, got 33/],
  ['packInt4', { weight: f(96), shape: { out: 1 }, group: 64 }, 'packInt4: group', /a divisor of in = 96, got 64/],
  ['packInt4', { weight: f(64), shape: { out: 2 }, group: 0 }, 'packInt4: group', /a multiple of 32, got 0/],
  ['packInt4', { weight: f(64), shape: {} }, 'packInt4: shape', /out or in/],
  ['packInt4', { weight: f(64), shape: { out: 3 } }, 'packInt4: shape', /64 elements/],
  ['packInt4', { weight: f(64), shape: { out: 2 ** 40, in: 2 ** 40 } }, 'packInt4: shape', /64 elements/],
  ['packInt4', { weight: f(64).fill(Number.NaN), shape: { out: 2 } }, 'packInt4: weight', /finite/],
  ['packInt4', { weight: f(64).fill(1e30), shape: { out: 2 } }, 'packInt4: weight', /f16/],
  [
    'packInt4',
    { values: new Uint8Array(32).fill(16), scales: f(1), shape: { out: 1 } },
    'packInt4: values',
    /0\.\.15, got 16/,
  ],
  [
    'packInt4',
    { values: new Uint8Array(32), scales: f(1), zeros: Uint8Array.of(16), shape: { out: 1 } },
    'packInt4: zeros',
    /0\.\.15, got 16/,
  ],
  [
    'packInt4',
    { values: new Uint8Array(32), scales: f(2), shape: { out: 1 } },
    'packInt4: scales',
    /1 elements, got 2/,
  ],
  [
    'packInt4',
    { values: new Uint8Array(32), scales: f(1).fill(Infinity), shape: { out: 1 } },
    'packInt4: scales',
    /finite/,
  ],
  ['packInt4', { values: new Int8Array(32), scales: f(1), shape: { out: 1 } }, 'packInt4: values', /a Uint8Array/],
  ['packInt8', { values: new Uint8Array(32), scales: f(1), shape: { out: 1 } }, 'packInt8: values', /an? Int8Array/],
  ['packInt4', { weight: f(64), shape: { out: 2 }, symmetric: 'no' }, 'packInt4: symmetric', /a boolean/],
  ['packInt8', null, 'packInt8', /an object/],
];

describe('bad calls', () => {
  it.each(cases.map(([op, args, operand, message]) => ({ op, args, operand, message })))(
    '$op: $message',
    async ({ op, args, operand, message }) => {
      const error = await loose[op]!(args).then(
        () => 'accepted',
        (reason: unknown) => reason,
      );
      expect(error).toBeInstanceOf(CrosscurrentError);
      expect(error).toMatchObject({ operand });
      expect((error as CrosscurrentError).code).toMatch(/^(INVALID_ARGUMENT|TOKEN_OUT_OF_RANGE)$/);
      expect((error as CrosscurrentError).message).toMatch(message);
    },
  );

  it('of a cache', async () => {
    const { KvCache } = kernels;
    for (const options of [
      { kvHeads: 0, headDim: 4, capacity: 4 },
      { kvHeads: 1, headDim: 4, capacity: 0.5 },
      { kvHeads: 1, headDim: 4, capacity: 4, dtype: 'i8' },
      undefined,
    ])
      await expect(KvCache.create(options as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    await expect(KvCache.create({ kvHeads: 1 << 20, headDim: 1 << 20, capacity: 1 << 30 })).rejects.toMatchObject({
      code: 'OUT_OF_MEMORY',
    });
    using cache = await KvCache.create({ kvHeads: 1, headDim: 4, capacity: 4 });
    await expect(cache.append({ k: f(6), v: f(6) })).rejects.toMatchObject({ operand: 'KvCache: k' });
    await expect(cache.append({ k: f(8), v: f(4) })).rejects.toMatchObject({ operand: 'KvCache: v' });
    await expect(cache.truncate(1)).rejects.toMatchObject({ operand: 'KvCache: length' });
    await expect(kernels.flashAttentionDecode({ q: f(4), cache, headDim: 4 })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
    cache.dispose();
    await expect(cache.append({ k: f(4), v: f(4) })).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});
