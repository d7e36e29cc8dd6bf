// Calls at random, near right ones: each gives its results or a typed error, and the process lives.
import { describe, expect, it } from 'vitest';
import { CrosscurrentError } from '../../src/errors.js';
import { Random } from '../../src/kernels/cases/index.js';
import * as kernels from '../../src/kernels/index.js';
import { addon } from '../../src/native/addon.js';

const seed = 20261125;
const callsPerOp = 1400;
const nativeCalls = 6000;
const packed = await kernels.packInt4({ weight: new Float32Array(32 * 32), shape: { out: 32 } });
const caches = await Promise.all(
  (['f32', 'f16', 'bf16', 'int8'] as const).map(async (dtype) => {
    const cache = await kernels.KvCache.create({ kvHeads: 1, headDim: 4, capacity: 64, dtype });
    await cache.append({ k: new Float32Array(40), v: new Float32Array(40) });
    return cache;
  }),
);

type Args = Record<string, unknown>;

/** A right call of each op on sizes at random. */
const right: Record<string, (r: Random) => Args> = {
  embedding: (r) =>
    sized(r, ({ t, vocab, dim }) => ({ ids: r.ints(t!, vocab!), weight: r.floats(vocab! * dim!), shape: { dim } })),
  linear: (r) =>
    sized(r, ({ rows, from, to }) => ({
      x: r.floats(rows! * from!),
      weight: r.floats(from! * to!),
      bias: r.floats(to!),
      residual: r.floats(rows! * to!),
      scale: 2,
    })),
  int4Matmul: (r) => sized(r, ({ rows }) => ({ x: r.floats(rows! * 32), weight: packed, exact: r.below(2) === 0 })),
  rmsNorm: (r) => sized(r, ({ rows, dim }) => ({ x: r.floats(rows! * dim!), weight: r.floats(dim!), eps: 1e-5 })),
  gatedRmsNorm: (r) =>
    sized(r, ({ rows, dim }) => ({
      x: r.floats(rows! * dim!),
      z: r.floats(rows! * dim!),
      weight: r.floats(dim!),
      eps: 1e-5,
    })),
  add: (r) => sized(r, ({ dim }) => ({ a: r.floats(dim!), b: r.floats(dim!), scale: 0.5 })),
  actMul: (r) =>
    sized(r, ({ rows, dim }) => ({
      gate: r.floats(rows! * dim!),
      up: r.floats(rows! * dim!),
      activation: r.pick(['none', 'silu', 'gelu', 'relu2']),
      shape: { rows },
    })),
  rope: (r) =>
    sized(r, ({ t, heads, half }) => ({
      x: r.floats(t! * heads! * (2 * half! + 1)),
      position: r.ints(t!, 1 << 20),
      invFreq: r.floats(half!),
      headDim: 2 * half! + 1,
      interleaved: r.below(2) === 0,
    })),
  flashAttention: (r) =>
    sized(r, ({ t, heads, groups, dim }) => ({
      q: r.floats(t! * heads! * groups! * dim!),
      k: r.floats(t! * heads! * dim!),
      v: r.floats(t! * heads! * dim!),
      headDim: dim,
      window: r.below(4),
      softcap: r.below(2),
      alibi: r.below(2) ? r.floats(heads! * groups!) : undefined,
      kv: r.pick(['f32', 'f16', 'bf16', 'int8']),
      shape: { t },
    })),
  flashAttentionDecode: (r) =>
    sized(r, ({ t, heads, dim }) =>
      r.below(2)
        ? { q: r.floats(4 * heads!), cache: r.pick(caches), headDim: 4 }
        : {
            q: r.floats(heads! * dim!),
            k: r.floats(t! * dim!),
            v: r.floats(t! * dim!),
            headDim: dim,
            shape: { kvHeads: 1 },
          },
    ),
  causalConv1d: (r) =>
    sized(r, ({ t, dim }) => ({
      x: r.floats(t! * dim!),
      weight: r.floats(dim! * 3),
      bias: r.floats(dim!),
      window: r.floats(2 * dim!),
      activation: 'silu',
    })),
  selectiveScan: (r) =>
    sized(r, ({ t, dim, half }) => ({
      x: r.floats(t! * dim!),
      dt: r.floats(t! * dim!),
      dtBias: r.floats(dim!),
      a: r.floats(dim! * half!),
      b: r.floats(t! * half!),
      c: r.floats(t! * half!),
      d: r.floats(dim!),
      z: r.floats(t! * dim!),
      h: r.floats(dim! * half!),
    })),
  ssd: (r) =>
    sized(r, ({ t, heads, dim, half, groups }) => ({
      x: r.floats(t! * heads! * groups! * dim!),
      dt: r.floats(t! * heads! * groups!),
      dtBias: r.floats(heads! * groups!),
      a: r.floats(heads! * groups!),
      b: r.floats(t! * groups! * half!),
      c: r.floats(t! * groups! * half!),
      d: r.floats(heads! * groups!),
      groups,
      s: r.floats(heads! * groups! * dim! * half!),
    })),
  router: (r) =>
    sized(r, ({ t, dim }) => ({
      logits: r.floats(t! * dim!),
      topK: 1 + r.below(dim!),
      rule: r.pick(['softmax_topk', 'topk_softmax', 'sigmoid']),
      shape: { experts: dim },
    })),
  moe: (r) =>
    sized(r, ({ t, dim, half }) => ({
      x: r.floats(t! * dim!),
      ids: r.ints(t! * 2, 3),
      weights: r.floats(t! * 2),
      gate: r.floats(3 * half! * dim!),
      down: r.floats(3 * dim! * half!),
      activation: 'silu',
      shape: { experts: 3, dim },
    })),
  gatherRows: (r) =>
    sized(r, ({ t, rows, dim }) => ({ x: r.floats(t! * dim!), index: r.ints(rows!, t!), shape: { dim } })),
  topProbabilities: (r) =>
    sized(r, ({ rows, vocab }) => ({ logits: r.floats(rows! * vocab!), topK: 1 + r.below(5), shape: { rows } })),
  sample: (r) =>
    sized(r, ({ rows, vocab }) => ({
      logits: r.floats(rows! * vocab!),
      shape: { rows },
      options: { temperature: r.below(2), topK: r.below(5), history: r.ints(3, vocab!), presencePenalty: 1 },
    })),
};

function sized(r: Random, make: (sizes: Record<string, number>) => Args): Args {
  const names = ['t', 'rows', 'vocab', 'dim', 'from', 'to', 'heads', 'half', 'groups'];
  return make(Object.fromEntries(names.map((name) => [name, 1 + r.below(name === 'groups' ? 3 : 9)])));
}

const strange = (r: Random): unknown =>
  r.pick([
    undefined,
    null,
    0,
    -1,
    1,
    2,
    3,
    7,
    0.5,
    2 ** 31,
    2 ** 32,
    2 ** 53,
    -(2 ** 31),
    Number.NaN,
    Infinity,
    -Infinity,
    '',
    'x',
    true,
    5n,
    {},
    [],
    [1, 2, 3],
    Symbol('s'),
    () => 1,
    new Date(),
    new ArrayBuffer(8),
    new DataView(new ArrayBuffer(8)),
    new Uint8Array(12),
    new Float64Array(3),
    new Float32Array(0),
    new Float32Array(1),
    new Float32Array(17),
    new Int32Array(5),
    new Int32Array([0, 2, 1]),
    new Int32Array([-1, 2 ** 31 - 1]),
    new Uint16Array(6),
    new Float32Array(new SharedArrayBuffer(16)),
    packed,
    ...caches,
    { dtype: 'bf16', data: new Uint16Array(9) },
    { dtype: 'f16', data: 3 },
    { rows: 2 },
    { t: 0 },
    { dim: 3, heads: 2 },
  ]);

/** One to three things wrong, or nothing. */
function mutate(r: Random, args: Args): Args {
  const changed: Args = { ...args };
  const keys = [
    ...Object.keys(args),
    'out',
    'shape',
    'threads',
    'isa',
    'first',
    'firstKey',
    'signal',
    'causal',
    'window',
    'width',
    'headDim',
    'extra',
  ];
  for (let count = r.below(4); count > 0; count--) {
    const key = r.pick(keys);
    const value = changed[key];
    const kind = r.below(6);
    if (kind === 0) delete changed[key];
    else if (kind === 1 && (value instanceof Float32Array || value instanceof Int32Array))
      changed[key] = value.subarray(r.below(3), r.below(90));
    else if (kind === 2 && (value instanceof Float32Array || value instanceof Int32Array)) {
      const copy = value.slice();
      copy[r.below(copy.length)] = r.pick([Number.NaN, Infinity, -1, 2 ** 31 - 1, -(2 ** 31), 1e38]);
      changed[key] = copy;
    } else if (kind === 3 && value instanceof Float32Array) changed[key] = r.floats(1 + r.below(200));
    else if (kind === 4)
      changed.out = { y: r.pick(Object.values(args)), ids: strange(r), h: r.pick(Object.values(args)) };
    else changed[key] = strange(r);
  }
  return changed;
}

const typed = (error: unknown): boolean => error instanceof CrosscurrentError && error.code !== 'INTERNAL';

describe(`seed ${seed}`, () => {
  it.each(Object.keys(right))(`%s, ${callsPerOp} calls`, async (op) => {
    const r = new Random(seed + op.length * 1000 + op.charCodeAt(0));
    const call = (kernels as unknown as Record<string, (args: Args) => Promise<unknown>>)[op]!;
    let accepted = 0;
    for (let i = 0; i < callsPerOp; i++) {
      const args = mutate(r, right[op]!(r));
      try {
        await call(args);
        accepted++;
      } catch (error) {
        if (!typed(error)) throw new Error(`call ${i} of ${op}`, { cause: error });
      }
    }
    // both what is right and what is wrong was among them
    expect(accepted).toBeGreaterThan(callsPerOp / 5);
    expect(accepted).toBeLessThan(callsPerOp);
  });

  it(`the native call itself, ${nativeCalls} calls`, async () => {
    const r = new Random(seed);
    const native = addon();
    const arrays = () =>
      r.pick([
        r.floats(1 + r.below(64)),
        r.ints(1 + r.below(64), 1 << r.below(8)),
        new Uint16Array(1 + r.below(64)),
        undefined,
        packed.handle,
        caches[0]?.handle,
        strange(r),
      ]);
    for (let i = 0; i < nativeCalls; i++) {
      const size = () => r.pick([0, 1, 2, 3, 4, 8, 2 ** 31 - 1, 2 ** 31, 2 ** 40]);
      const list = <T>(length: number, make: () => T): T[] => Array.from({ length }, make);
      try {
        await native.runOp(
          r.below(16),
          list(r.below(8), size),
          Int32Array.from(list(r.below(8), () => r.pick([0, 1, 2, 3, 4, -1, 2 ** 31 - 1]))),
          list(r.below(12), arrays),
          Int32Array.from(list(r.below(11), () => r.below(24))),
          {
            threads: r.below(3),
            first: r.pick([undefined, r.ints(3, 4)]),
            sampling: r.pick([undefined, r.ints(40, 3)]),
          },
        );
      } catch (error) {
        if (!typed(error)) throw new Error(`native call ${i}`, { cause: error });
      }
    }
  });
});
