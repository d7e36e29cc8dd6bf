// Every sampling option does what it says, and seeds reproduce.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Model, SamplingOptions } from '../../src/index.js';
import { capital, errorOf, loadTiny, someIds } from './support.js';

let model: Model;
let greedy: readonly number[];
const prompt = someIds(12, 3);

const sampled = async (options: SamplingOptions, maxTokens = 16): Promise<readonly number[]> =>
  (await model.complete(prompt, { maxTokens, ignoreEos: true, ...options })).ids;

beforeAll(async () => {
  model = await loadTiny();
  greedy = await sampled({});
});
afterAll(() => model.dispose());

describe('seeds', () => {
  it('the same gives the same, another another', async () => {
    const options = { temperature: 1.5, seed: 7 };
    const first = await sampled(options);
    expect(await sampled(options)).toEqual(first);
    expect(await sampled({ temperature: 1.5, seed: 7n })).toEqual(first);
    expect(await sampled({ temperature: 1.5, seed: 8 })).not.toEqual(first);
    expect(first).not.toEqual(greedy);
  });

  it('one chosen for you is in the stats, and gives the same', async () => {
    const one = await model.complete(prompt, { temperature: 2, maxTokens: 16, ignoreEos: true });
    const two = await model.complete(prompt, { temperature: 2, maxTokens: 16, ignoreEos: true });
    expect(one.ids).not.toEqual(two.ids);
    expect(await sampled({ temperature: 2, seed: one.stats.seed })).toEqual(one.ids);
  });

  it('all 64 bits count, and negative ones wrap', async () => {
    const high = { temperature: 2, seed: (1n << 60n) + 7n };
    expect(await sampled(high)).not.toEqual(await sampled({ temperature: 2, seed: 7 }));
    expect(await sampled({ temperature: 2, seed: -1 })).toEqual(
      await sampled({ temperature: 2, seed: 0xffff_ffff_ffff_ffffn }),
    );
  });

  it('a token depends on its place, not on how the text before it came about', async () => {
    const options = { temperature: 1.5, seed: 11 };
    const first = await sampled(options);
    const longer = Int32Array.from([...prompt, ...first.slice(0, 5)]);
    const rest = await model.complete(longer, { ...options, maxTokens: 11, ignoreEos: true });
    expect(rest.ids).toEqual(first.slice(5));
  });
});

describe('what narrows the choice down to one is greedy', () => {
  it.each<[string, SamplingOptions]>([
    ['topK 1', { temperature: 5, topK: 1 }],
    ['topP 0', { temperature: 1, topP: 0 }],
    ['minP 1', { temperature: 5, minP: 1 }],
    ['a low temperature', { temperature: 1e-4 }],
    ['topK 1 at topP and minP', { temperature: 3, topK: 1, topP: 0.5, minP: 0.2 }],
  ])('%s', async (_, options) => expect(await sampled({ ...options, seed: 3 })).toEqual(greedy));
});

describe('what narrows the choice', () => {
  // what many seeds choose after one prompt, against the probabilities worked out here
  const seeds = Array.from({ length: 24 }, (_, seed) => seed);
  const first = async (options: SamplingOptions): Promise<Set<number>> =>
    new Set((await Promise.all(seeds.map((seed) => sampled({ ...options, seed }, 1)))).flat());

  let logits: Float32Array;
  beforeAll(async () => {
    logits = (await model.logits(prompt)).slice(-model.info.vocab);
  });

  /** Ids and probabilities, likeliest first. */
  function ranked(temperature: number): { id: number; p: number }[] {
    const largest = logits.reduce((a, b) => Math.max(a, b));
    const weights = Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight, id) => ({ id, p: weight / sum })).sort((a, b) => b.p - a.p);
  }

  it('nothing: many tokens', async () => expect((await first({ temperature: 3 })).size).toBeGreaterThan(15));

  it('topK: the k likeliest', async () => {
    const likeliest = ranked(3).slice(0, 3);
    const ids = await first({ temperature: 3, topK: 3 });
    expect(ids.size).toBe(3);
    for (const id of ids) expect(likeliest.map((each) => each.id)).toContain(id);
  });

  it('topP: as many of the likeliest as make up that probability', async () => {
    const [temperature, topP] = [1.2, 0.3];
    let sum = 0;
    const allowed = new Set<number>();
    for (const { id, p } of ranked(temperature)) {
      if (sum >= topP + 1e-4) break;
      allowed.add(id);
      sum += p;
    }
    const ids = await first({ temperature, topP });
    expect(allowed.size).toBeGreaterThan(1);
    expect(ids.size).toBeGreaterThan(1);
    for (const id of ids) expect(allowed).toContain(id);
  });

  it('minP: those at least so likely beside the likeliest', async () => {
    const [temperature, minP] = [2, 0.3];
    const [best, ...rest] = ranked(temperature);
    const allowed = [best, ...rest.filter(({ p }) => p >= (minP - 1e-4) * (best?.p ?? 0))].map((each) => each?.id);
    const ids = await first({ temperature, minP });
    expect(ids.size).toBeGreaterThan(1);
    for (const id of ids) expect(allowed).toContain(id);
  });
});

describe('logitBias', () => {
  it('forces a token', async () => {
    expect(await sampled({ logitBias: { 1234: 1e4 } }, 4)).toEqual([1234, 1234, 1234, 1234]);
    expect(await sampled({ logitBias: { 1234: 1e4 }, temperature: 1 }, 4)).toEqual([1234, 1234, 1234, 1234]);
  });

  it('forbids a token', async () => {
    const [best] = greedy as [number];
    const ids = await sampled({ logitBias: { [best]: Number.NEGATIVE_INFINITY } });
    expect(ids).not.toContain(best);
    const many = await sampled({ logitBias: { [best]: Number.NEGATIVE_INFINITY }, temperature: 0.5, seed: 1 });
    expect(many).not.toContain(best);
  });

  it('of nothing changes nothing', async () => expect(await sampled({ logitBias: {} })).toEqual(greedy));
});

describe('penalties', () => {
  const stuck = { logitBias: { 1234: 30 } };

  it('without one, a favoured token comes again and again', async () =>
    expect(new Set(await sampled(stuck, 8)).size).toBe(1));

  it.each<[string, SamplingOptions]>([
    ['presence', { presencePenalty: 1000 }],
    ['frequency', { frequencyPenalty: 1000 }],
    ['repetition', { repetitionPenalty: 1000 }],
  ])('%s: no token twice', async (_, options) => {
    const ids = await sampled({ ...options }, 12);
    expect(new Set([...prompt, ...ids]).size).toBe(prompt.length + 12);
  });

  it('presence counts a token once, frequency each time', async () => {
    // 3 off each time is too little to stop a token that is 30 ahead, 3 off ten times is enough
    const once = await sampled({ ...stuck, presencePenalty: 3 }, 16);
    expect(new Set(once).size).toBe(1);
    const often = await sampled({ ...stuck, frequencyPenalty: 5 }, 16);
    expect(new Set(often).size).toBeGreaterThan(1);
    expect(often.slice(0, 3)).toEqual([1234, 1234, 1234]);
  });

  it('negative ones favour what was said', async () => {
    const ids = await sampled({ presencePenalty: -1000 }, 8);
    for (const [i, id] of ids.entries()) expect([...prompt, ...ids.slice(0, i)]).toContain(id);
  });
});

describe('wrong options', () => {
  const bad: Record<string, readonly unknown[]> = {
    temperature: [Number.NaN, -1, Number.POSITIVE_INFINITY, '1', null],
    topK: [Number.NaN, -1, 0.5, Number.POSITIVE_INFINITY, '40'],
    topP: [Number.NaN, -0.1, 1.1, '1'],
    minP: [Number.NaN, -0.1, 1.1],
    repetitionPenalty: [Number.NaN, 0, -1, Number.POSITIVE_INFINITY],
    presencePenalty: [Number.NaN, Number.POSITIVE_INFINITY, 'x'],
    frequencyPenalty: [Number.NaN, Number.NEGATIVE_INFINITY],
    maxTokens: [Number.NaN, 0, -1, 1.5, Number.POSITIVE_INFINITY, '5'],
    seed: [Number.NaN, 0.5, 2 ** 60, '7'],
  };
  const rows = Object.entries(bad).flatMap(([key, values]) => values.map((value) => [key, value] as const));

  it.each(rows.filter(([, value]) => value !== null))('%s: %s', async (key, value) => {
    const error = await errorOf(() => model.complete(capital, { [key]: value }));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', operand: key });
    expect(error.expected).toMatch(/./);
    expect(error.got).toContain(String(value));
  });

  it.each([
    ['a token past the vocabulary', { 49152: 1 }, 'TOKEN_OUT_OF_RANGE'],
    ['no token at all', { x: 1 }, 'TOKEN_OUT_OF_RANGE'],
    ['NaN', { 5: Number.NaN }, 'INVALID_ARGUMENT'],
    ['Infinity', { 5: Number.POSITIVE_INFINITY }, 'INVALID_ARGUMENT'],
    ['text', { 5: '1' }, 'INVALID_ARGUMENT'],
  ])('logitBias of %s', async (_, logitBias, code) => {
    expect(
      (await errorOf(() => model.complete(capital, { logitBias: logitBias as Record<number, number> }))).code,
    ).toBe(code);
  });

  it('every token forbidden: one is chosen, or the error says so', async () => {
    const logitBias = Object.fromEntries(Array.from({ length: 49152 }, (_, id) => [id, Number.NEGATIVE_INFINITY]));
    const outcome = await model.complete(capital, { logitBias, maxTokens: 2 }).then(
      ({ ids }) => ids.every((id) => id >= 0 && id < 49152),
      (error) => error.code === 'INVALID_ARGUMENT',
    );
    expect(outcome).toBe(true);
  });
});
