// Caches of every type: what f32 promises holds for each. A sequence's tokens depend on that sequence alone, drafts change nothing, and states are copied, saved and restored as they are.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type GenerateOptions,
  inspect,
  type KvType,
  load,
  lookahead,
  type Model,
  promptLookup,
  selfDraft,
  tree,
} from '../../src/index.js';
import { kvTypes } from '../../src/ops/flash-attention.js';
import { randomTensors, small } from '../models/support.js';
import { hybrid } from './small-models.js';
import { errorOf } from './support.js';

const llama = { ...small, model_type: 'llama', tie_word_embeddings: false };
const sources = {
  llama: { config: llama, tensors: await randomTensors(llama) },
  hybrid,
};
const lengths = [1, 31, 33, 64, 90];
const idsOf = (length: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => (i * 31 + length * 7 + (i % 4)) % 96);
const optionsOf = (i: number): GenerateOptions => ({
  maxTokens: 12,
  ignoreEos: true,
  ...(i % 2 ? { temperature: 1, seed: i } : {}),
});
const limits = { context: 160, sequences: 8 };

describe.each(Object.entries(sources))('%s', (_, source) => {
  const caches = new Map<KvType, number>();
  describe.each(kvTypes)('%s', (kv) => {
    let model: Model;
    let alone: { ids: readonly number[]; logits: Float32Array }[];
    const outcome = async (where: Model, i: number) => {
      const prompt = idsOf(lengths[i] as number);
      const { ids } = await where.complete(prompt, optionsOf(i));
      return { ids, logits: await where.logits(Int32Array.from([...prompt, ...ids].slice(-40))) };
    };
    beforeAll(async () => {
      model = await load(source, { ...limits, kv });
      alone = [];
      for (const i of lengths.keys()) alone.push(await outcome(model, i));
    });
    afterAll(() => model.dispose());

    it('is what the model says it has, and planned', async () => {
      expect(model.info.kv).toBe(kv);
      caches.set(kv, model.info.memory.cache);
      expect(model.info.memory.cache).toBeLessThanOrEqual(caches.get('f32') as number);
    });

    it('beside others, with other threads and no room to spare', async () => {
      expect(await Promise.all(lengths.map((_, i) => outcome(model, i)))).toEqual(alone);
      await using tight = await load(source, { ...limits, kv, threads: 1, cacheTokens: 160, prefixCacheBytes: 0 });
      expect(await Promise.all(lengths.map((_, i) => outcome(tight, i)))).toEqual(alone);
    });

    it('fed in pieces, forked, rewound, saved and restored', async () => {
      const prompt = idsOf(90);
      await using sequence = await model.sequence();
      for (const [from, to] of [
        [0, 1],
        [1, 20],
        [20, 51],
        [51, 90],
      ])
        await sequence.feed(prompt.subarray(from, to));
      await using twin = await sequence.fork();
      await using restored = await model.restore(await sequence.save());
      expect(Buffer.compare(await restored.save(), await sequence.save())).toBe(0);
      for (const each of [sequence, twin, restored]) {
        const { ids } = await each.generate(optionsOf(4)).completion();
        expect(ids).toEqual(alone[4]?.ids);
        await each.rewind(ids.length);
        expect((await each.generate(optionsOf(4)).completion()).ids).toEqual(ids);
      }
    });

    it.each([
      ['lookup', promptLookup({ minMatch: 1 })],
      ['lookahead', lookahead()],
      ['first layer', selfDraft({ layers: 1 })],
      ['tree', tree(selfDraft({ layers: 1 }))],
    ])('drafts of %s', async (_, speculate) => {
      for (const i of lengths.keys()) {
        const { ids } = await model.complete(idsOf(lengths[i] as number), { ...optionsOf(i), speculate });
        expect(ids).toEqual(alone[i]?.ids);
      }
    });

    it('a prompt that begins as an earlier one', async () => {
      const prompt = idsOf(90);
      const first = await model.complete(prompt, optionsOf(2));
      const again = await model.complete(prompt, optionsOf(2));
      expect(again.ids).toEqual(first.ids);
      await using cold = await load(source, { ...limits, kv, prefixCacheBytes: 0 });
      expect((await cold.complete(prompt, optionsOf(2))).ids).toEqual(first.ids);
    });

    it('refuses what a cache of another type saved', async () => {
      const other = kv === 'f16' ? 'bf16' : 'f16';
      await using where = await load(source, { ...limits, kv: other });
      await using sequence = await model.sequence();
      await sequence.feed([1, 2, 3]);
      const error = await errorOf(async () => where.restore(await sequence.save()));
      expect(error).toMatchObject({ code: 'INVALID_STATE', operand: 'saved sequence: kv', expected: other, got: kv });
    });
  });
});

it('says another thing than f32, and not much of another', async () => {
  const prompt = idsOf(90);
  const said = async (kv: KvType): Promise<Float32Array> => {
    await using model = await load(sources.llama, { ...limits, kv, activations: 'exact' });
    return await model.logits(prompt);
  };
  const exact = await said('f32');
  const size = Math.sqrt(exact.reduce((sum, value) => sum + value * value, 0) / exact.length);
  for (const [kv, most] of [
    ['f16', 2e-3],
    ['bf16', 2e-2],
    ['int8', 3e-2],
  ] as const) {
    const got = await said(kv);
    const error = Math.sqrt(got.reduce((sum, value, i) => sum + (value - (exact[i] as number)) ** 2, 0) / got.length);
    expect(error / size, kv).toBeGreaterThan(0);
    expect(error / size, kv).toBeLessThan(most);
  }
});

it('memory of each type', async () => {
  const cache = async (kv: KvType) => (await inspect(undefined, { kv })).memory.cache;
  const full = await cache('f32');
  expect(await cache('f16')).toBe(full / 2);
  expect(await cache('bf16')).toBe(full / 2);
  const int8 = await cache('int8');
  expect(int8).toBeLessThan(full / 3.5);
  expect(int8).toBeGreaterThan(full / 4);
  await using model = await load(undefined, { kv: 'int8' });
  expect(model.info.memory.cache).toBe(int8);
  expect((await errorOf(() => load(undefined, { kv: 'i8' as never }))).expected).toBe('one of f32, f16, bf16, int8');
});

it('of a model without attention is f32, whatever is asked for', async () => {
  const config = {
    model_type: 'mamba2',
    vocab_size: 96,
    hidden_size: 32,
    num_hidden_layers: 1,
    num_heads: 8,
    head_dim: 8,
    state_size: 8,
    n_groups: 1,
    expand: 2,
    max_position_embeddings: 256,
  };
  await using model = await load({ config, tensors: await randomTensors(config) }, { ...limits, kv: 'int8' });
  expect(model.info).toMatchObject({ kv: 'f32', memory: { cache: 0 } });
});
