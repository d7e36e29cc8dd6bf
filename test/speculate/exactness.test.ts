// Speculative output is the plain output, bit for bit: on every architecture, with right, wrong and half-right drafts, chains and trees, greedy and
// sampled, alone and in a batch.
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { draftModel, load, lookahead, promptLookup, type Speculation } from '../../src/index.js';
import type { Model } from '../../src/model.js';
import { parityFolder, tinyGguf } from '../support/models.js';

const fixtures = [
  'llama',
  'llama_rope_llama3',
  'llama_rope_yarn',
  'smollm3',
  'mistral_window',
  'qwen2',
  'qwen3',
  'mixtral',
  'qwen3_moe',
  'mamba',
  'mamba2',
  'mamba2_groups',
  'jamba',
  'bamba',
  'granitemoehybrid',
  'granitemoehybrid_dense_rope',
  'nemotron_h',
];
const models = [
  { name: 'tiny', path: tinyGguf },
  ...fixtures.map((name) => ({ name, path: `${parityFolder}${name}` })),
];
const tokens = 40;

/** A drafter that knows the plain output and spoils some of it. */
const oracle =
  (plain: readonly number[], promptLength: number, isRight: (position: number) => boolean, width = 1): Speculation =>
  ({ vocab }) => ({
    propose({ ids, limit }) {
      const start = ids.length - promptLength;
      const chain = plain
        .slice(start, start + Math.min(limit, 6))
        .map((id, i) => (isRight(start + i) ? id : (id + 1) % vocab));
      if (width === 1) return { ids: chain };
      // each right token among wrong siblings, the chain goes on from the right one
      const draft: number[] = [];
      const parents: number[] = [];
      let parent = -1;
      for (const id of chain) {
        for (let sibling = 0; sibling < width && draft.length < limit; sibling++) {
          draft.push((id + width - 1 - sibling) % vocab);
          parents.push(parent);
        }
        parent = draft.length - 1;
      }
      return { ids: draft, parents };
    },
  });

const random =
  (seed: number) =>
  (n: number): boolean =>
    (Math.imul(n * 2654435761 + seed, 40503) >>> 16) % 2 === 0;

/** Right for two tokens, wrong for the third: partial accepts; then a round without a draft. */
const partial = (plain: readonly number[], promptLength: number): Speculation => {
  const inner = oracle(plain, promptLength, (n) => n % 3 !== 2);
  return async (target) => {
    const drafter = await inner(target);
    let round = 0;
    return { length: 6, propose: (request) => (round++ % 2 === 0 ? drafter.propose(request) : { ids: [] }) };
  };
};

const samplings = [
  { name: 'greedy', options: {} },
  { name: 'sampled', options: { temperature: 0.8, topP: 0.95, seed: 11 } },
];

describe.each(models)('$name', ({ path }) => {
  if (!existsSync(path)) return void it.skip(`needs ${path}`, () => {});
  let model: Model;
  let prompt: Int32Array;
  beforeAll(async () => {
    model = await load(path, { threads: 2, context: 160 });
    const spread = Math.min(model.info.vocab - 3, 200);
    prompt = Int32Array.from({ length: 21 }, (_, i) => 3 + ((i * 37 + (i % 5) * 11) % spread));
  });
  afterAll(() => model.dispose());

  describe.each(samplings)('$name', ({ options }) => {
    let plain: readonly number[];
    const run = async (speculate: Speculation, ids = prompt, maxTokens = tokens) =>
      model.complete(ids, { ...options, maxTokens, ignoreEos: true, speculate });
    beforeAll(async () => {
      plain = (await model.complete(prompt, { ...options, maxTokens: tokens, ignoreEos: true })).ids;
    });

    const drafters: [string, () => Speculation][] = [
      ['an oracle', () => oracle(plain, prompt.length, () => true)],
      ['an oracle in a tree', () => oracle(plain, prompt.length, () => true, 3)],
      ['always wrong', () => oracle(plain, prompt.length, () => false)],
      ['right half the time', () => oracle(plain, prompt.length, random(5))],
      ['half right in a tree', () => oracle(plain, prompt.length, random(9), 2)],
      ['partial accepts and empty drafts', () => partial(plain, prompt.length)],
      ['prompt lookup', () => promptLookup({ minMatch: 1 })],
      ['lookahead', () => lookahead()],
      ['itself as draft model', () => draftModel(model)],
    ];
    it.each(drafters)('%s', async (_, speculate) => {
      expect((await run(speculate())).ids).toEqual(plain);
    });

    it('a perfect draft of four takes the fewest steps', async () => {
      const four: Speculation = async (target) => ({
        ...(await oracle(plain, prompt.length, () => true)(target)),
        length: 4,
      });
      const { ids, stats } = await run(four);
      expect(ids).toEqual(plain);
      // one token from the prompt, then five a step
      expect(stats.speculation?.steps).toBe(Math.ceil((tokens - 1) / 5));
    });

    it('leaves the sequence as plain decoding does', async () => {
      const states = [];
      for (const speculate of [undefined, oracle(plain, prompt.length, random(7)), lookahead()]) {
        await using sequence = await model.sequence();
        await sequence.feed(prompt);
        for await (const _ of sequence.generate({
          ...options,
          maxTokens: 12,
          ignoreEos: true,
          ...(speculate ? { speculate } : {}),
        }));
        await sequence.feed([5, 6]);
        const { ids } = await sequence.generate({ maxTokens: 8, ignoreEos: true }).completion();
        states.push([...sequence.ids, ...ids]);
      }
      expect(states[1]).toEqual(states[0]);
      expect(states[2]).toEqual(states[0]);
    });

    it('an oracle is accepted', async () => {
      const { stats } = await run(oracle(plain, prompt.length, () => true));
      expect(stats.speculation?.accepted).toBeGreaterThan(0);
      expect(stats.speculation?.accepted).toBe(stats.speculation?.drafted);
    });

    it('beside seven others with drafters of their own', async () => {
      const mates = Array.from({ length: 7 }, (_, i) => prompt.subarray(i, 8 + 2 * i));
      const alone = await Promise.all(
        mates.map((ids) => model.complete(ids, { ...options, maxTokens: 20, ignoreEos: true })),
      );
      const [first, ...rest] = await Promise.all([
        run(oracle(plain, prompt.length, random(3))),
        ...mates.map((ids, i) => run(i % 2 === 0 ? lookahead() : promptLookup({ minMatch: 1 }), ids, 20)),
      ]);
      expect(first?.ids).toEqual(plain);
      expect(rest.map(({ ids }) => ids)).toEqual(alone.map(({ ids }) => ids));
    });
  });
});
