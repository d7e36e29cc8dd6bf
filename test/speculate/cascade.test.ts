// Two models that write together: which one's token is taken, that the way there never changes the output, and that the output has the distribution that the rules say.
import { existsSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SamplingOptions } from '../../src/generate/sampling.js';
import { type CascadeOptions, type CascadeRule, cascade, load, type Speculation } from '../../src/index.js';
import type { Model } from '../../src/model.js';
import type { NamedTensors } from '../../src/weights/safetensors.js';
import { granite, randomTensors } from '../models/support.js';
import { parityFolder, smollm2Gguf, tinyGguf } from '../support/models.js';

const rules: CascadeRule[] = ['chow', 'diff', 'opt', 'token'];
const prompt = Int32Array.from([5, 17, 3, 29, 11, 8, 23]);
const vocab = 40;

const config = { ...granite, vocab_size: vocab };
const tensors = await randomTensors(config, 1);
const otherTensors = await randomTensors(config, 2);

/** A random model sure enough to matter; the more of another head is mixed into its own, the more it says something else. */
async function randomModel(otherShare: number, options = {}): Promise<Model> {
  const [head, other] = [tensors, otherTensors].map((each) => each['lm_head.weight']) as [Head, Head];
  const mixed = head.data.map((weight, i) => 4 * ((1 - otherShare) * weight + otherShare * (other.data[i] as number)));
  const own = { ...tensors, 'lm_head.weight': { shape: head.shape, data: mixed } };
  return load({ config, tensors: own }, { context: 64, ...options });
}
type Head = NamedTensors[string];
const smallModel = (options = {}): Promise<Model> => randomModel(0.35, options);

let large: Model;
let small: Model;
beforeAll(async () => {
  large = await randomModel(0);
  small = await smallModel();
});
afterAll(async () => {
  await large.dispose();
  await small.dispose();
});

const samplings: { name: string; options: SamplingOptions }[] = [
  { name: 'greedy', options: {} },
  { name: 'sampled', options: { temperature: 0.8, topP: 0.95, seed: 11 } },
  { name: 'with penalties', options: { temperature: 1.1, repetitionPenalty: 1.2, seed: 5 } },
];

describe.each(samplings)('$name', ({ options }) => {
  const all = { ...options, maxTokens: 24 };
  const idsOf = async (cascading: CascadeOptions) => (await cascade(small, large, cascading).complete(prompt, all)).ids;

  it.each(rules)('%s: the extremes are the output of one model', async (rule) => {
    expect(await idsOf({ rule, alpha: Number.NEGATIVE_INFINITY })).toEqual((await large.complete(prompt, all)).ids);
    expect(await idsOf({ rule, alpha: Number.POSITIVE_INFINITY })).toEqual((await small.complete(prompt, all)).ids);
  });

  it.each(['chow', 'token'] as const)(
    '%s: from alpha 1 on the small model is always trusted, below 0 never',
    async (rule) => {
      expect(await idsOf({ rule, alpha: 1 })).toEqual((await small.complete(prompt, all)).ids);
      expect(await idsOf({ rule, alpha: -0.001 })).toEqual((await large.complete(prompt, all)).ids);
    },
  );

  it.each(rules)('%s: however far the small model runs ahead', async (rule) => {
    for (const alpha of [0, 0.2, 0.6]) {
      const alone = await idsOf({ rule, alpha, length: 1 });
      for (const length of [2, 4, 8, 40]) expect(await idsOf({ rule, alpha, length })).toEqual(alone);
    }
  });

  it('beside others, with few places', async () => {
    const tokens = { rule: 'token', alpha: 0.4 } as const;
    await using few = await smallModel({
      sequences: 2,
    });
    const alone = await idsOf(tokens);
    const both = cascade(few, large, tokens);
    const answers = await Promise.all(Array.from({ length: 6 }, () => both.complete(prompt, all)));
    for (const { ids } of answers) expect(ids).toEqual(alone);
  });
});

describe('rules', () => {
  const softmax = (logits: Float32Array, temperature = 1): number[] => {
    const max = Math.max(...logits);
    const weights = [...logits].map((logit) => Math.exp((logit - max) / temperature));
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / total);
  };
  const last = async (model: Model): Promise<Float32Array> => (await model.logits(prompt)).slice(-vocab);

  /** What the paper says the next token's distribution is. */
  async function wanted(rule: CascadeRule, alpha: number, temperature: number): Promise<number[]> {
    const [lq, lp] = [await last(small), await last(large)];
    const [q, p] = [softmax(lq, temperature), softmax(lp, temperature)];
    const [q1, p1] = [softmax(lq), softmax(lp)];
    const [maxQ, maxP] = [Math.max(...q1), Math.max(...p1)];
    if (rule === 'token') {
      const isGood = p1.map((each) => each >= (1 - alpha) * maxP);
      const refused = q.reduce((sum, each, v) => sum + (isGood[v] ? 0 : each), 0);
      return q.map((each, v) => (isGood[v] ? each : 0) + refused * (p[v] as number));
    }
    const distance = q.reduce((sum, each, v) => sum + Math.max(0, each - (p[v] as number)), 0);
    const least = { chow: 1 - alpha, diff: maxP - alpha, opt: maxP - alpha * distance }[rule];
    return maxQ >= least ? q : p;
  }

  const draws = 1200;
  it.each(rules.flatMap((rule) => [-0.1, 0.1, 0.45, 0.8].map((alpha) => [rule, alpha] as const)))(
    '%s with alpha %d has the distribution of the paper',
    { timeout: 60_000 },
    async (rule, alpha) => {
      const expected = await wanted(rule, alpha, 0.9);
      const counts = new Array<number>(vocab).fill(0);
      const both = cascade(small, large, { rule, alpha });
      for (let seed = 0; seed < draws; seed += 8) {
        const some = Array.from({ length: 8 }, (_, i) =>
          both.complete(prompt, { maxTokens: 1, temperature: 0.9, seed: seed + i }),
        );
        for (const { ids } of await Promise.all(some)) counts[ids[0] as number]!++;
      }
      // five standard deviations
      expected.forEach((probability, id) => {
        const spread = Math.sqrt((probability * (1 - probability)) / draws);
        expect(Math.abs((counts[id] as number) / draws - probability), `token ${id}`).toBeLessThan(
          5 * spread + 2 / draws,
        );
      });
    },
  );

  it('counts what came from whom', async () => {
    const { ids, stats } = await cascade(small, large, { rule: 'diff', alpha: 0.1 }).complete(prompt, {
      maxTokens: 20,
    });
    const { drafted, accepted, steps, deferred = -1 } = stats.speculation as NonNullable<typeof stats.speculation>;
    expect(ids.length).toBe(20);
    expect(stats.finishReason).toBe('length');
    expect(deferred).toBeGreaterThanOrEqual(0);
    expect(deferred).toBeLessThanOrEqual(20);
    expect(accepted).toBeLessThanOrEqual(drafted);
    expect(accepted).toBeGreaterThanOrEqual(20 - deferred);
    expect(steps).toBeGreaterThanOrEqual(5);
  });
});

describe('what cannot be', () => {
  it.each([
    [{ rule: 'best', alpha: 0 }, /rule: expected one of/],
    [{ alpha: Number.NaN }, /alpha: expected a number/],
    [{}, /alpha: expected a number/],
    [undefined, /alpha: expected a number/],
    [{ alpha: 0, length: 0 }, /length: expected an integer/],
    [{ alpha: 0, length: 1000 }, /length: expected an integer/],
  ])('%o', (options, message) => {
    expect(() => cascade(small, large, options as CascadeOptions)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', message: expect.stringMatching(message) }),
    );
  });

  it('a drafter besides', async () => {
    const speculate: Speculation = () => ({ propose: () => ({ ids: [] }) });
    const options = { maxTokens: 4, speculate };
    await expect(cascade(small, large, { alpha: 0 }).complete(prompt, options)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      operand: 'speculate',
    });
  });

  it('another vocabulary', async () => {
    await using other = await load(tinyGguf, { context: 64 });
    await expect(cascade(other, large, { alpha: 0 }).complete(prompt)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      operand: 'small model',
    });
  });

  it('a prompt past the smaller context; a full one ends the text', async () => {
    await using short = await smallModel({
      context: 16,
    });
    const both = cascade(short, large, { alpha: 0.3 });
    await expect(both.complete(Int32Array.from({ length: 16 }, () => 1))).rejects.toMatchObject({
      code: 'CONTEXT_OVERFLOW',
    });
    const { ids, stats } = await both.complete(prompt);
    expect(prompt.length + ids.length).toBe(16);
    expect(stats.finishReason).toBe('context');
  });

  it('aborted or left, it gives its places back', async () => {
    await using few = await smallModel({
      sequences: 1,
    });
    const both = cascade(few, large, { alpha: 0.3 });
    for await (const _ of both.generate(prompt)) break;
    const controller = new AbortController();
    const running = both.complete(prompt, { signal: controller.signal });
    controller.abort(new Error('enough'));
    await expect(running).rejects.toThrow('enough');
    expect((await both.complete(prompt, { maxTokens: 4 })).ids.length).toBe(4);
  });

  it('a disposed model', async () => {
    const gone = await smallModel();
    const both = cascade(gone, large, { alpha: 0.3 });
    const running = both.complete(prompt);
    await gone.dispose();
    await expect(running).rejects.toMatchObject({ code: 'DISPOSED' });
    await expect(both.complete(prompt)).rejects.toMatchObject({ code: 'DISPOSED' });
  });
});

describe('of fixtures', () => {
  const [first, second] = [`${parityFolder}mamba`, `${parityFolder}jamba`];
  it.for([
    [first, second],
    [second, first],
  ] as const)('%s and %s', async ([one, other], context) => {
    for (const path of [one, other]) if (!existsSync(path)) context.skip(`needs ${path}`);
    await using a = await load(one, { context: 96 });
    await using b = await load(other, { context: 96 });
    const options = { maxTokens: 20, temperature: 0.8, seed: 4 };
    for (const rule of rules) {
      const [short, long] = await Promise.all(
        [1, 6].map((length) => cascade(a, b, { rule, alpha: 0.5, length }).complete(prompt, options)),
      );
      expect(long?.ids).toEqual(short?.ids);
    }
  });
});

it('tiny and SmolLM2', async (context) => {
  if (!existsSync(smollm2Gguf)) context.skip(`needs ${smollm2Gguf}`);
  await using smol = await load(smollm2Gguf, { context: 96 });
  await using tiny = await load(tinyGguf, { context: 96 });
  const options = { maxTokens: 10 };
  const texts = [];
  for (const alpha of [Number.NEGATIVE_INFINITY, 0.5, Number.POSITIVE_INFINITY])
    texts.push((await cascade(tiny, smol, { alpha }).complete('Tell me about the sea.', options)).text);
  expect(texts[0]).toBe((await smol.complete('Tell me about the sea.', options)).text);
  expect(texts[2]).toBe((await tiny.complete('Tell me about the sea.', options)).text);
});
