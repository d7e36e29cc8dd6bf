// What a caller of `crosscurrent/kernels` may rely on: results by name, places for them, state in and out, signals, workers.
import { once } from 'node:events';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { describe, expect, expectTypeOf, it } from 'vitest';
import { Random } from '../../src/kernels/cases/index.js';
import * as kernels from '../../src/kernels/index.js';
import { distribution } from '../../src/kernels/reference/index.js';
import { kvTypes } from '../../src/ops/flash-attention.js';
import { transpileSources } from '../support/transpile.js';

const { add, causalConv1d, flashAttention, flashAttentionDecode, int4Matmul, KvCache, linear, moe } = kernels;
const { packInt4, packInt8, rmsNorm, router, sample, selectiveScan, ssd, embedding, int8Matmul } = kernels;
const random = new Random(100);

describe('results', () => {
  it('are new arrays, or those of the caller, views included', async () => {
    const x = random.floats(3 * 31);
    const weight = random.floats(31);
    const { y } = await rmsNorm({ x, weight, eps: 1e-5 });
    expectTypeOf(y).toEqualTypeOf<Float32Array>();
    const place = new Float32Array(200).fill(7);
    const view = place.subarray(5, 5 + x.length);
    const given = await rmsNorm({ x, weight, eps: 1e-5, out: { y: view } });
    expect(given.y).toBe(view);
    expect(view).toEqual(y);
    expect([...place.subarray(0, 5), ...place.subarray(5 + x.length)].every((value) => value === 7)).toBe(true);
  });

  it('of several kinds are given in part', async () => {
    const ids = new Int32Array(6);
    const logits = random.floats(12);
    const chosen = await router({ logits, topK: 2, rule: 'softmax_topk', shape: { experts: 4 }, out: { ids } });
    expect(chosen.ids).toBe(ids);
    expect(chosen.weights).toHaveLength(6);
  });

  it('do not depend on where the operands begin', async () => {
    const block = random.floats(1000);
    const weight = block.slice(500, 500 + 17 * 33);
    for (const start of [0, 1, 2, 3, 5]) {
      const x = block.subarray(start, start + 99);
      const shape = { in: 33 };
      const { y } = await linear({ x, weight: weight.slice(0, 33 * 15), shape });
      expect(y).toEqual((await linear({ x: x.slice(), weight: weight.slice(0, 33 * 15), shape })).y);
    }
  });

  it('carry NaN to the rows that hold it and to no other', async () => {
    const x = random.floats(3 * 64);
    x[64] = Number.NaN;
    const packed = await packInt4({ weight: random.floats(16 * 64), shape: { out: 16 } });
    for (const { y } of [
      await rmsNorm({ x, width: 64, eps: 1e-5 }),
      await linear({ x, weight: random.floats(16 * 64), shape: { in: 64 } }),
      await int4Matmul({ x, weight: packed }),
    ]) {
      const width = y.length / 3;
      expect(y.subarray(width, 2 * width).every(Number.isNaN)).toBe(true);
      expect([...y.subarray(0, width), ...y.subarray(2 * width)].some(Number.isNaN)).toBe(false);
    }
    packed.dispose();
  });
});

describe('states', () => {
  const [t, channels, states] = [9, 19, 5];
  const scan = {
    x: random.floats(t * channels),
    dt: random.floats(t * channels),
    dtBias: random.floats(channels),
    a: random.floats(channels * states, -3, -0.1),
    b: random.floats(t * states),
    c: random.floats(t * states),
    d: random.floats(channels),
  };
  const rows = (array: Float32Array, from: number, to: number): Float32Array => {
    const width = array.length / t;
    return array.subarray(from * width, to * width);
  };
  const part = (from: number, to: number) => ({
    ...scan,
    x: rows(scan.x, from, to),
    dt: rows(scan.dt, from, to),
    b: rows(scan.b, from, to),
    c: rows(scan.c, from, to),
  });

  it('of selectiveScan: 9 tokens are 4, then 5 from where those end, bit for bit, moved on in place too', async () => {
    const whole = await selectiveScan(scan);
    const start = await selectiveScan(part(0, 4));
    const state = start.h.slice();
    const rest = await selectiveScan({ ...part(4, 9), h: start.h });
    const placed = await selectiveScan({ ...part(4, 9), h: state, out: { h: state } });
    expect([...start.y, ...rest.y]).toEqual([...whole.y]);
    expect(rest.h).toEqual(whole.h);
    expect(placed.h).toBe(state);
    expect(state).toEqual(whole.h);
  });

  it('of several sequences are those of each alone', async () => {
    const first = Int32Array.of(0, 2, 3, 9);
    const together = await selectiveScan({ ...scan, first });
    const size = channels * states;
    expect(together.h).toHaveLength(3 * size);
    for (let seq = 0; seq < 3; seq++) {
      const alone = await selectiveScan(part(first[seq]!, first[seq + 1]!));
      expect(rows(together.y, first[seq]!, first[seq + 1]!)).toEqual(alone.y);
      expect(together.h.subarray(seq * size, (seq + 1) * size)).toEqual(alone.h);
    }
  });

  it('of ssd and causalConv1d: cut anywhere', async () => {
    const heads = 4;
    const [x, dt] = [random.floats(t * heads * 3), random.floats(t * heads)];
    const [b, c] = [random.floats(t * 2 * 7), random.floats(t * 2 * 7)];
    const [dtBias, a, d] = [random.floats(heads), random.floats(heads, -3, -0.1), random.floats(heads)];
    const weight = random.floats(heads * 3 * 4);
    const wholeSsd = await ssd({ x, dt, b, c, dtBias, a, d, groups: 2 });
    const wholeConv = await causalConv1d({ x, weight, shape: { kernel: 4 } });
    for (const cut of [1, 4, 8]) {
      const half = (from: number, to: number) => ({
        x: rows(x, from, to),
        dt: rows(dt, from, to),
        b: rows(b, from, to),
        c: rows(c, from, to),
        dtBias,
        a,
        d,
        groups: 2,
      });
      const one = await ssd(half(0, cut));
      const two = await ssd({ ...half(cut, t), s: one.s });
      expect([...one.y, ...two.y]).toEqual([...wholeSsd.y]);
      expect(two.s).toEqual(wholeSsd.s);
      const left = await causalConv1d({ x: rows(x, 0, cut), weight, shape: { kernel: 4 } });
      const right = await causalConv1d({ x: rows(x, cut, t), weight, shape: { kernel: 4 }, window: left.window });
      expect([...left.y, ...right.y]).toEqual([...wholeConv.y]);
      expect(right.window).toEqual(wholeConv.window);
    }
  });

  it.each(kvTypes)(
    'of attention over %s: a cache gives what arrays give, and the last row of the whole, bit for bit',
    async (kv) => {
      const [keys, kvHeads, heads, headDim] = [75, 2, 6, 16];
      const q = random.floats(keys * heads * headDim);
      const [k, v] = [random.floats(keys * kvHeads * headDim), random.floats(keys * kvHeads * headDim)];
      const whole = await flashAttention({ q, k, v, headDim, kv, shape: { heads } });
      const last = q.subarray((keys - 1) * heads * headDim);
      const arrays = await flashAttentionDecode({ q: last, k, v, headDim, kv, shape: { kvHeads } });
      expect(arrays.y).toEqual(whole.y.subarray(-heads * headDim));
      using cache = await KvCache.create({ kvHeads, headDim, capacity: keys, dtype: kv });
      const width = kvHeads * headDim;
      for (const [from, to] of [
        [0, 30],
        [30, 31],
        [31, 75],
      ] as const) {
        await cache.append({ k: k.subarray(from * width, to * width), v: v.subarray(from * width, to * width) });
        expect(cache.length).toBe(to);
        const row = q.subarray((to - 1) * heads * headDim, to * heads * headDim);
        const { y } = await flashAttentionDecode({ q: row, cache, headDim });
        expect(y).toEqual(whole.y.subarray((to - 1) * heads * headDim, to * heads * headDim));
      }
      await cache.truncate(30);
      const { y } = await flashAttentionDecode({
        q: q.subarray(29 * heads * headDim, 30 * heads * headDim),
        cache,
        headDim,
      });
      expect(y).toEqual(whole.y.subarray(29 * heads * headDim, 30 * heads * headDim));
      await expect(cache.append({ k, v })).rejects.toMatchObject({ code: 'CONTEXT_OVERFLOW' });
    },
  );
});

describe('packed weights', () => {
  it('from floats are within half a step', async () => {
    const weight = random.floats(8 * 128);
    const identity = Float32Array.from({ length: 128 * 128 }, (_, i) => (i % 129 === 0 ? 1 : 0));
    for (const group of [32, 64, 128])
      for (const [pack, most] of [
        [() => packInt4({ weight, shape: { out: 8 }, group }), 2 / 15 / 2],
        [() => packInt4({ weight, shape: { out: 8 }, group, symmetric: true }), 1 / 7 / 2],
        [() => packInt8({ weight, shape: { out: 8 }, group }), 1 / 127 / 2],
      ] as const) {
        using packed = await pack();
        const { y } = await linear({ x: identity, weight: packed, exact: true });
        for (let i = 0; i < y.length; i++)
          expect(Math.abs(y[i]! - weight[(i % 8) * 128 + Math.floor(i / 8)]!)).toBeLessThan(most * 1.02);
      }
  });

  it('are tables and experts too', async () => {
    using table = await packInt8({ weight: random.floats(10 * 64), shape: { out: 10 } });
    expect(table).toMatchObject({ experts: 1, out: 10, in: 64, format: 'int8' });
    const { y } = await embedding({ ids: Int32Array.of(3, 9), weight: table });
    expect(y).toHaveLength(128);
    const pack = (out: number, into: number) =>
      packInt4({ weight: random.floats(3 * out * into), shape: { experts: 3, out, in: into } });
    using gate = await pack(32, 64);
    using down = await pack(64, 32);
    const [x, ids, weights] = [random.floats(64), Int32Array.of(0, 2), Float32Array.of(0.5, 0.5)];
    expect((await moe({ x, ids, weights, gate, down, activation: 'relu2' })).y).toHaveLength(64);
  });

  it('may be disposed while a call runs, and not used afterwards', async () => {
    const packed = await packInt8({ weight: random.floats(256 * 256), shape: { out: 256 } });
    const x = random.floats(256);
    const before = await int8Matmul({ x, weight: packed });
    const running = int8Matmul({ x, weight: packed });
    await Promise.resolve();
    await new Promise((resolve) => process.nextTick(resolve));
    packed.dispose();
    packed.dispose();
    await expect(running).resolves.toEqual(before);
    await expect(int8Matmul({ x, weight: packed })).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe('sample', () => {
  it('draws from the distribution that its options describe, the same for the same seed', async () => {
    const logits = random.floats(17, -2, 2);
    const options = { temperature: 0.8, topK: 9, topP: 0.9, minP: 0.05 };
    const expected = new Map(distribution(logits, options));
    const rows = 4000;
    const all = Float32Array.from({ length: rows * 17 }, (_, i) => logits[i % 17]!);
    const list = Array.from({ length: rows }, (_, position) => ({ ...options, seed: 5, position }));
    const { ids } = await sample({ logits: all, options: list });
    for (const [id, p] of expected)
      expect(Math.abs(ids.filter((other) => other === id).length / rows - p)).toBeLessThan(0.035);
    expect(ids.every((id) => expected.has(id))).toBe(true);
    expect((await sample({ logits, options: list[7]! })).ids[0]).toBe(ids[7]);
  });

  it('knows biases and penalties', async () => {
    const logits = Float32Array.of(1, 3, 2);
    expect((await sample({ logits })).ids[0]).toBe(1);
    expect((await sample({ logits, options: { logitBias: { 1: Number.NEGATIVE_INFINITY } } })).ids[0]).toBe(2);
    const history = Int32Array.of(1, 1, 2);
    expect((await sample({ logits, options: { history, frequencyPenalty: 1.5 } })).ids[0]).toBe(0);
    expect((await sample({ logits: Float32Array.of(Number.NaN, 1) })).ids[0]).toBe(-1);
  });
});

describe('calls', () => {
  it('at once each have their own results', async () => {
    const inputs = Array.from({ length: 16 }, () => random.floats(4096));
    const weight = random.floats(64);
    const alone = [];
    for (const x of inputs) alone.push(await rmsNorm({ x, weight, eps: 1e-5 }));
    expect(await Promise.all(inputs.map((x) => rmsNorm({ x, weight, eps: 1e-5 })))).toEqual(alone);
  });

  it('reject with the reason of their signal', async () => {
    const reason = new Error('no longer wanted');
    const [a, b] = [random.floats(8), random.floats(8)];
    await expect(add({ a, b, signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    const controller = new AbortController();
    const x = random.floats(256 * 1024);
    const weight = random.floats(1024 * 1024);
    // enough before it that it still waits when the signal comes, however busy the machine
    const running = Promise.all(
      Array.from({ length: 8 }, () => linear({ x, weight, shape: { in: 1024 }, threads: 1 })),
    );
    const queued = add({ a, b, signal: controller.signal });
    setImmediate(() => controller.abort(reason));
    await expect(queued).rejects.toBe(reason);
    await running;
  });

  it('tell of memory that was given away meanwhile', async () => {
    const x = random.floats(512 * 1024);
    const running = rmsNorm({ x, width: 1024, eps: 1e-5, out: { y: new Float32Array(x.length) } });
    await Promise.resolve();
    await new Promise((resolve) => process.nextTick(resolve));
    const moved = structuredClone(x, { transfer: [x.buffer as ArrayBuffer] });
    await expect(running).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', operand: 'rmsNorm: x' });
    expect(moved).toHaveLength(512 * 1024);
  });

  it('leave the event loop free', async () => {
    const [rows, width] = [256, 1024];
    const x = random.floats(rows * width);
    const weight = random.floats(width * width);
    await linear({ x, weight, shape: { in: width } });
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const start = performance.now();
    await linear({ x, weight, shape: { in: width }, threads: 1, isa: 'v2' });
    clearInterval(timer);
    expect(ticks).toBeGreaterThan((performance.now() - start) / 20);
  });

  it('work in workers, at once with the main thread', async () => {
    const { folder, remove } = transpileSources('kernels');
    const code = `
      const { parentPort } = require('node:worker_threads');
      import(${JSON.stringify(pathToFileURL(join(folder, 'kernels/index.js')).href)}).then(async ({ rmsNorm }) => {
        const x = Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i));
        for (let i = 0; i < 50; i++) await rmsNorm({ x, width: 64, eps: 1e-5 });
        parentPort.postMessage((await rmsNorm({ x, width: 64, eps: 1e-5 })).y);
      });`;
    const workers = [0, 1].map(() => new Worker(code, { eval: true }));
    const answers = workers.map((worker) => once(worker, 'message'));
    const x = Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i));
    const { y } = await rmsNorm({ x, width: 64, eps: 1e-5 });
    for (const [given] of await Promise.all(answers)) expect(given).toEqual(y);
    await Promise.all(workers.map((worker) => worker.terminate()));
    remove();
  });
});
