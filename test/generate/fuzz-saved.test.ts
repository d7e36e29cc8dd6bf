// Saved sequences, altered in every way: found and refused with a typed error that says what differs; sequence and model are as they were.
import { crc32 } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { generator } from '../../bench/lib/soak.js';
import { CrosscurrentError, load, type Model, promptLookup } from '../../src/index.js';
import { hostOf } from '../../src/model.js';
import { randomTensors, small } from '../models/support.js';
import { hybrid } from './small-models.js';

const seed = 20261125;
const runs = 7000; // of each model
const context = 64;

const llamaConfig = { ...small, model_type: 'llama', tie_word_embeddings: false };
const mambaConfig = {
  model_type: 'mamba2',
  vocab_size: 128,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_heads: 8,
  head_dim: 8,
  state_size: 8,
  n_groups: 1,
  expand: 2,
  max_position_embeddings: 256,
};
const models = [
  { name: 'attention', source: { config: llamaConfig, tensors: await randomTensors(llamaConfig) } },
  { name: 'mamba2', source: { config: mambaConfig, tensors: await randomTensors(mambaConfig) } },
  { name: 'hybrid', source: hybrid },
];

/** Sequences as they come: empty, fed, with an accepted token waiting, with a few of a draft waiting. */
async function savedSequences(model: Model): Promise<Uint8Array[]> {
  const saved: Uint8Array[] = [];
  for (const [fed, generated] of [
    [0, 0],
    [1, 0],
    [20, 0],
    [33, 3],
    [20, 12],
  ] as const) {
    await using sequence = await model.sequence();
    await sequence.feed(Int32Array.from({ length: fed }, (_, i) => (i * 7) % 11));
    if (generated > 0)
      await sequence
        .generate({ maxTokens: generated, ignoreEos: true, speculate: promptLookup({ minMatch: 1 }) })
        .completion();
    saved.push(await sequence.save());
  }
  return saved;
}

type Random = ReturnType<typeof generator>;

const lengths = [0, 1, -1, 2, 3, 19, 20, 21, 32, 33, 63, 64, 65, 127, 128, 260, 0x7fffffff, -0x80000000, 0x40000000];

/** One alteration; most of them where the lengths are. */
function alter(bytes: Uint8Array, random: Random, others: readonly Uint8Array[]): Uint8Array {
  const spot = (): number => random.integer(random.chance(0.6) ? Math.min(bytes.length, 120) : bytes.length);
  const copy = Uint8Array.from(bytes);
  switch (random.integer(8)) {
    case 0:
      return copy.subarray(0, random.integer(bytes.length)); // cut
    case 1:
      return copy.subarray(0, Math.max(0, bytes.length - 1 - random.integer(64)));
    case 2: {
      const longer = new Uint8Array(bytes.length + 1 + random.integer(64));
      longer.set(bytes);
      return longer;
    }
    case 3: {
      for (let n = 1 + random.integer(3); n > 0; n--) {
        const at = spot();
        copy[at] = (copy[at] as number) ^ (1 << random.integer(8));
      }
      return copy;
    }
    case 4: {
      const at = spot() & ~3;
      if (at + 4 <= copy.length) new DataView(copy.buffer).setInt32(at, random.pick(lengths), true);
      return copy;
    }
    case 5: {
      // a part moved
      const [from, to] = [spot(), spot()];
      return copy.copyWithin(to, from, from + 1 + random.integer(32));
    }
    case 6: {
      // the beginning of one, the end of another
      const other = random.pick(others);
      const at = random.integer(Math.min(bytes.length, other.length));
      const spliced = new Uint8Array(other.length);
      spliced.set(bytes.subarray(0, at));
      spliced.set(other.subarray(at), at);
      return spliced;
    }
    default: {
      const at = spot();
      return copy.fill(random.pick([0, 255]), at, at + 1 + random.integer(16));
    }
  }
}

/** Makes size and checksum right again, so that what lies behind them is tried. */
function reseal(bytes: Uint8Array): Uint8Array {
  if (bytes.length < 24) return bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setBigUint64(8, BigInt(bytes.length), true);
  view.setUint32(16, crc32(bytes.subarray(20)), true);
  return bytes;
}

describe.each(models)('$name', ({ source }) => {
  it(`${runs} alterations`, { timeout: 120_000 }, async () => {
    await using model = await load(source, { context, sequences: 2, cacheTokens: 4 * context, threads: 1 });
    const random = generator(seed);
    const originals = await savedSequences(model);
    const home = originals[3] as Uint8Array;
    await using sequence = await model.restore(home);
    const count = { refused: 0, taken: 0, same: 0 };
    const refusals = new Set<string>();
    for (let run = 0; run < runs; ) {
      const original = random.pick(originals);
      const sealed = random.chance(0.5);
      const altered = alter(original, random, originals);
      const bytes = sealed ? reseal(altered) : altered;
      if (originals.some((each) => Buffer.compare(each, bytes) === 0)) {
        count.same++;
        continue;
      }
      run++;
      try {
        await sequence.restore(bytes);
        expect(sealed, `run ${run}: altered and not found`).toBe(true);
        count.taken++;
        // whatever it holds now: it runs, or says what is wrong with its logits
        if (count.taken % 16 === 0 && sequence.length > 0 && sequence.length < context)
          await sequence.generate({ maxTokens: 1, ignoreEos: true, temperature: 1 }).completion();
        await sequence.restore(home);
      } catch (error) {
        if (!(error instanceof CrosscurrentError)) throw error;
        if (error.operand === 'logits') {
          await sequence.restore(home);
          continue;
        }
        expect(error.code, `run ${run}: ${error.message}`).toBe('INVALID_STATE');
        refusals.add(error.operand ?? error.message);
        count.refused++;
        if (count.refused % 32 === 0) expect(Buffer.compare(await sequence.save(), home), `run ${run}`).toBe(0);
      }
    }
    console.log(`${JSON.stringify(count)}: ${[...refusals].join(', ')}`);
    expect(count.refused).toBeGreaterThan(runs / 2);
    expect(count.taken).toBeGreaterThan(runs / 50);
    expect(Buffer.compare(await sequence.save(), home)).toBe(0);
    // no place and no page was lost
    await using other = await model.restore(originals[4] as Uint8Array);
    await other.feed(new Int32Array(context - other.length));
    await sequence.feed(new Int32Array(context - sequence.length));
    hostOf(model).scheduler.audit();
  });
});

it('bytes of another model, other activations or another version', async () => {
  const [first, second] = models.map(({ source }) => source);
  const options = { context, sequences: 2, threads: 1 };
  await using model = await load(first, options);
  await using other = await load(second, options);
  await using exact = await load(first, { ...options, activations: 'exact' });
  const tensors = { ...first!.tensors };
  const [changed = ''] = Object.keys(tensors);
  tensors[changed] = { ...tensors[changed]!, data: Float32Array.from(tensors[changed]!.data, (value) => value + 1) };
  await using tuned = await load({ config: llamaConfig, tensors }, options);
  await using sequence = await model.sequence();
  await sequence.feed([1, 2, 3]);
  const bytes = await sequence.save();
  const later = Uint8Array.from(bytes).fill(9, 4, 5);
  const attempts: [Model, Uint8Array, string][] = [
    [other, bytes, 'model'],
    [tuned, bytes, 'model'],
    [exact, bytes, 'activations'],
    [model, later, 'version'],
    [model, bytes.subarray(1), 'magic'],
    [model, bytes.subarray(0, -1), 'size'],
  ];
  for (const [where, given, what] of attempts) {
    const error = await where.restore(given).then(
      () => undefined,
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(CrosscurrentError);
    expect(error).toMatchObject({ code: 'INVALID_STATE', operand: `saved sequence: ${what}` });
  }
  // the same weights under other options of load
  await using wide = await load(first, { context: 128, sequences: 1, threads: 2 });
  await using twin = await wide.restore(bytes);
  expect([...twin.ids]).toEqual([1, 2, 3]);
});
