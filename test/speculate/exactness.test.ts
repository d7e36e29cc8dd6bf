// Speculative output is the plain output, bit for bit: the tokens, and the logits of every committed token. On every architecture, with every drafter and with right, wrong and half-right drafts, chains
// and trees, greedy and sampled, on one thread and two, alone and in a batch.
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SamplingOptions } from '../../src/generate/sampling.js';
import { draftModel, load, lookahead, promptLookup, type Speculation, selfDraft, tree } from '../../src/index.js';
import type { Model } from '../../src/model.js';
import { fixtureNames, parityFolder, smollm2Gguf, tinyGguf } from '../support/models.js';
import {
  Comparison,
  decode,
  decodePlainly,
  halfOf,
  oracle,
  type Plain,
  partial,
  unwatchSteps,
  watchSteps,
  withLength,
} from './support.js';

/** Of plain decoding; the cases take less. */
const longest = 60;
const tokens = 30;
const mateTokens = 12;

const samplings: { name: string; options: SamplingOptions }[] = [
  { name: 'greedy', options: {} },
  { name: 'sampled', options: { temperature: 0.8, topP: 0.95, seed: 11 } },
];

/** A model in the state of the tests, with what it says by itself. */
interface Subject {
  /** With one thread, and with two. */
  readonly models: readonly [Model, Model];
  readonly prompt: Int32Array;
  readonly plain: readonly Plain[];
  /** What each of the mates gives alone, by sampling. */
  readonly alone: Map<number, Promise<(readonly number[])[]>>;
}

const promptOf = (vocab: number): Int32Array =>
  Int32Array.from({ length: 21 }, (_, i) => 3 + ((i * 37 + (i % 5) * 11) % Math.min(vocab - 3, 200)));

async function subjectOf(path: string, sizes: { context: number; longest: number }): Promise<Subject> {
  const options = { context: sizes.context, prefixCacheBytes: 0 };
  const models = [await load(path, { ...options, threads: 1 }), await load(path, { ...options, threads: 2 })] as const;
  const prompt = promptOf(models[0].info.vocab);
  const plain: Plain[] = [];
  for (const { options: sampling } of samplings)
    plain.push(await decodePlainly(models[1], { prompt, options: sampling, tokens: sizes.longest }));
  return { models, prompt, plain, alone: new Map() };
}

interface Case {
  readonly drafter: string;
  /** Tokens asked for; what pays where absent. */
  readonly length?: number;
  readonly threads: 1 | 2;
  readonly mates?: boolean;
  make(subject: Subject, plain: Plain, model: Model): Speculation;
}

const ofPlain =
  (isRight: (position: number) => boolean, shape = {}): Case['make'] =>
  ({ prompt }, { ids }) =>
    oracle(ids, prompt.length, isRight, shape);
const half = (model: Model): number => Math.ceil(model.info.layers.length / 2);
const mostLayers = (model: Model): number => model.info.layers.length - 1;

const cases: Case[] = [
  { drafter: 'an oracle', length: 5, threads: 1, make: ofPlain(() => true) },
  { drafter: 'an oracle as it pays', threads: 2, make: ofPlain(() => true) },
  { drafter: 'an oracle in a tree', length: 12, threads: 2, make: ofPlain(() => true, { width: 3 }) },
  { drafter: 'always wrong', length: 4, threads: 1, make: ofPlain(() => false) },
  { drafter: 'right half the time', length: 6, threads: 2, make: ofPlain(halfOf(5)) },
  { drafter: 'half right in a tree', length: 9, threads: 1, make: ofPlain(halfOf(9), { width: 2 }) },
  {
    drafter: 'partial accepts, then no draft',
    length: 6,
    threads: 2,
    make: ({ prompt }, { ids }) => partial(ids, prompt.length),
  },
  { drafter: 'promptLookup', length: 4, threads: 1, make: () => promptLookup({ minMatch: 1 }) },
  { drafter: 'lookahead', length: 20, threads: 2, make: () => lookahead() },
  { drafter: 'draftModel', length: 4, threads: 1, make: (_, __, model) => draftModel(model) },
  { drafter: 'selfDraft', length: 3, threads: 2, make: (_, __, model) => selfDraft({ layers: half(model) }) },
  {
    drafter: 'tree(draftModel)',
    length: 7,
    threads: 2,
    make: (_, __, model) => tree(draftModel(model), { width: 2, depth: 3 }),
  },
  {
    drafter: 'tree(promptLookup)',
    length: 8,
    threads: 1,
    make: () => tree(promptLookup({ minMatch: 1 }), { width: 3, depth: 3 }),
  },
  {
    drafter: 'tree(selfDraft)',
    length: 9,
    threads: 1,
    make: (_, __, model) => tree(selfDraft({ layers: mostLayers(model) }), { width: 3, depth: 3 }),
  },
  { drafter: 'half right', length: 5, threads: 2, mates: true, make: ofPlain(halfOf(3)) },
  { drafter: 'half right in a tree', length: 8, threads: 1, mates: true, make: ofPlain(halfOf(4), { width: 2 }) },
];

/** Seven others, with drafters of their own: what each gives alone. */
const matesOf = (prompt: Int32Array): { ids: Int32Array; speculate: Speculation }[] =>
  Array.from({ length: 7 }, (_, i) => ({
    ids: prompt.subarray(i, 8 + 2 * i),
    speculate: i % 2 === 0 ? withLength(lookahead(), 6) : promptLookup({ minMatch: 1 }),
  }));

async function inTurn<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (const item of items) results.push(await work(item));
  return results;
}

function matesAlone({ models, prompt, alone }: Subject, sampling: number): Promise<(readonly number[])[]> {
  const options = { ...samplings[sampling]?.options, maxTokens: mateTokens, ignoreEos: true };
  const known =
    alone.get(sampling) ?? inTurn(matesOf(prompt), async ({ ids }) => (await models[1].complete(ids, options)).ids);
  alone.set(sampling, known);
  return known;
}

async function check(subject: Subject, sampling: number, { length, threads, mates, make }: Case): Promise<void> {
  const { models, prompt, plain } = subject;
  const model = models[threads - 1] as Model;
  const { options } = samplings[sampling] as (typeof samplings)[number];
  const expected = plain[sampling] as Plain;
  const count = Math.min(tokens, expected.ids.length);
  const comparison = new Comparison(prompt, expected);
  const drafter = make(subject, expected, model);
  const speculate = length === undefined ? drafter : withLength(drafter, length);
  const mine = decode(model, { prompt, options, tokens: count, speculate, watch: comparison.watch });
  const others = mates ? matesOf(prompt) : [];
  const together = others.map(({ ids, speculate: theirs }) =>
    model.complete(ids, { ...options, maxTokens: mateTokens, ignoreEos: true, speculate: theirs }),
  );
  const [{ ids }, ...answers] = await Promise.all([mine, ...together]);
  expect(ids).toEqual(expected.ids.slice(0, count));
  expect([...comparison.different]).toEqual([]);
  // of the last token no logits are computed; of all others, the prompt's last included, they were compared
  for (let position = prompt.length - 1; position < prompt.length + count - 1; position++)
    expect(comparison.same).toContain(position);
  if (mates) expect(answers.map((answer) => answer.ids)).toEqual(await matesAlone(subject, sampling));
}

const title = ({ drafter, length, threads, mates }: Case): string =>
  `${drafter}, ${length ?? 'any'} drafts, ${threads} thread${threads > 1 ? 's' : ''}, ${mates ? 'seven mates' : 'alone'}`;

beforeAll(watchSteps);
afterAll(unwatchSteps);

const paths = [
  ...fixtureNames.map((name) => ({ name, path: `${parityFolder}${name}` })),
  { name: 'tiny', path: tinyGguf },
];

describe.each(paths)('$name', ({ path }) => {
  if (!existsSync(path)) return void it.skip(`needs ${path}`, () => {});
  let subject: Subject;
  beforeAll(async () => {
    subject = await subjectOf(path, { context: 160, longest });
  });
  afterAll(async () => {
    for (const model of subject.models) await model.dispose();
  });

  describe.each(samplings.map(({ name }, sampling) => ({ name, sampling })))('$name', ({ sampling }) => {
    it.each(cases.map((each) => [title(each), each] as const))('%s', (_, each) => check(subject, sampling, each));

    it('a perfect draft of four takes the fewest steps: 60 tokens in 12', async () => {
      const { prompt, models, plain } = subject;
      const { ids: expected } = plain[sampling] as Plain;
      const four = withLength(
        oracle(expected, prompt.length, () => true),
        4,
      );
      const { options } = samplings[sampling] as (typeof samplings)[number];
      const { ids, stats } = await decode(models[1], { prompt, options, tokens: longest, speculate: four });
      expect(ids).toEqual(expected);
      // one token from the prompt, then five a step
      expect(stats?.steps).toBe(12);
    });

    it('leaves the sequence as plain decoding does', async () => {
      const { prompt, models, plain } = subject;
      const { options } = samplings[sampling] as (typeof samplings)[number];
      const { ids: expected } = plain[sampling] as Plain;
      const ends = [];
      for (const speculate of [undefined, withLength(oracle(expected, prompt.length, halfOf(7)), 5), lookahead()]) {
        await using sequence = await models[1].sequence();
        await sequence.feed(prompt);
        const drafting = speculate ? { speculate } : {};
        await sequence.generate({ ...options, maxTokens: 12, ignoreEos: true, ...drafting }).completion();
        await sequence.feed([5, 6]);
        const { ids } = await sequence.generate({ maxTokens: 8, ignoreEos: true }).completion();
        ends.push([...sequence.ids, ...ids]);
      }
      expect(ends[1]).toEqual(ends[0]);
      expect(ends[2]).toEqual(ends[0]);
    });
  });
});

describe('SmolLM2', () => {
  if (!existsSync(smollm2Gguf)) return void it.skip(`needs ${smollm2Gguf}`, () => {});
  let subject: Subject;
  let small: Model;
  beforeAll(async () => {
    subject = await subjectOf(smollm2Gguf, { context: 64, longest: 12 });
    small = await load(tinyGguf, { context: 64, threads: 2 });
  });
  afterAll(async () => {
    for (const model of [...subject.models, small]) await model.dispose();
  });

  const few: Case[] = [
    { drafter: 'draftModel(tiny)', length: 4, threads: 2, make: () => draftModel(small) },
    {
      drafter: 'tree(draftModel(tiny))',
      length: 6,
      threads: 1,
      make: () => tree(draftModel(small), { width: 2, depth: 3 }),
    },
    { drafter: 'selfDraft', length: 2, threads: 2, make: () => selfDraft({ layers: 4 }) },
    { drafter: 'half right in a tree', length: 8, threads: 2, make: ofPlain(halfOf(2), { width: 2 }) },
  ];
  describe.each(samplings.map(({ name }, sampling) => ({ name, sampling })))('$name', ({ sampling }) => {
    it.each(few.map((each) => [title(each), each] as const))('%s', (_, each) => check(subject, sampling, each));
  });
});
