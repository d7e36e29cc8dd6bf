// Sequences as values: rewound, forked, restored in place, and what they hold.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type GenerateOptions, lookahead, type Model, promptLookup } from '../../src/index.js';
import { pageTokens } from '../../src/model-plan.js';
import { errorOf, loadTiny, reasonOf, someIds } from './support.js';

let model: Model;
beforeAll(async () => {
  model = await loadTiny({ sequences: 6, context: 640 });
});
afterAll(() => model.dispose());

const sampled: GenerateOptions = { maxTokens: 10, ignoreEos: true, temperature: 0.8, seed: 5 };

async function fed(ids: ArrayLike<number>) {
  const sequence = await model.sequence();
  await sequence.feed(ids);
  return sequence;
}

describe('rewind', () => {
  it.each([
    [0, 'nothing'],
    [1, 'the last token'],
    [3, 'what was generated'],
    [12, 'that, and some of the prompt'],
    [40, 'over the border of a page'],
    [290, 'nearly all'],
  ])('%i tokens: %s', async (n) => {
    const ids = someIds(300, 3);
    await using sequence = await fed(ids);
    const { ids: generated } = await sequence.generate({ maxTokens: 5, ignoreEos: true }).completion();
    const kept = [...ids, ...generated].slice(0, ids.length + generated.length - n);
    await sequence.rewind(n);
    expect([...sequence.ids]).toEqual(kept);
    // what follows is what follows those tokens in a sequence that never had others
    await using fresh = await fed(ids.subarray(0, Math.min(ids.length, kept.length)));
    if (kept.length > ids.length) await fresh.generate({ maxTokens: 5 - n, ignoreEos: true }).completion();
    expect([...fresh.ids]).toEqual(kept);
    const expected = (await fresh.generate(sampled).completion()).ids;
    expect((await sequence.generate(sampled).completion()).ids).toEqual(expected);
  });

  it('all of it, and on with other tokens', async () => {
    await using sequence = await fed(someIds(70, 1));
    await sequence.rewind(70);
    expect(sequence.length).toBe(0);
    await sequence.feed(someIds(20, 2));
    await using fresh = await fed(someIds(20, 2));
    const expected = (await fresh.generate(sampled).completion()).ids;
    expect((await sequence.generate(sampled).completion()).ids).toEqual(expected);
  });

  it('leaves forks alone', async () => {
    await using sequence = await fed(someIds(100, 4));
    await using twin = await sequence.fork();
    await sequence.rewind(60);
    await sequence.feed(someIds(60, 5));
    await using fresh = await fed(someIds(100, 4));
    const expected = (await fresh.generate(sampled).completion()).ids;
    expect((await twin.generate(sampled).completion()).ids).toEqual(expected);
  });

  it.each([promptLookup, lookahead])('what was speculated: %o', async (drafter) => {
    const prompt = Int32Array.from({ length: 60 }, (_, i) => 100 + (i % 7));
    const options: GenerateOptions = { maxTokens: 24, ignoreEos: true };
    await using plain = await fed(prompt);
    await using fast = await fed(prompt);
    await plain.generate(options).completion();
    await fast.generate({ ...options, speculate: drafter() }).completion();
    for (const n of [1, 4, 9]) {
      await plain.rewind(n);
      await fast.rewind(n);
      const expected = (await plain.generate(sampled).completion()).ids;
      expect((await fast.generate(sampled).completion()).ids).toEqual(expected);
    }
  });

  it.each([-1, 31, 1.5, Number.NaN, '3'])('%s of 30 tokens is refused', async (n) => {
    await using sequence = await fed(someIds(30));
    const error = await errorOf(() => sequence.rewind(n as number));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', operand: 'rewind: n', got: String(n) });
    expect(sequence.length).toBe(30);
  });
});

describe('bytes', () => {
  it('are a place and pages; a fork shares those that are full', async () => {
    // what the cache of beginnings holds is shared too: without it only forks share
    await using alone = await loadTiny({ prefixCacheBytes: 0 });
    const { states, cache } = alone.info.memory;
    await using empty = await alone.sequence();
    expect(empty.bytes).toBe(states / 4);
    expect(empty.sharedBytes).toBe(0);
    await using sequence = await alone.sequence();
    await sequence.feed(someIds(3 * pageTokens + 5));
    const pageBytes = (sequence.bytes - empty.bytes) / 4;
    expect(cache % pageBytes).toBe(0);
    expect(sequence.sharedBytes).toBe(0);
    await using twin = await sequence.fork();
    expect(twin.bytes).toBe(sequence.bytes);
    expect(sequence.sharedBytes).toBe(3 * pageBytes);
    expect(twin.sharedBytes).toBe(3 * pageBytes);
    await twin.dispose();
    expect(sequence.sharedBytes).toBe(0);
  });

  it('of drafts are part of the states', () => {
    const { states, drafts } = model.info.memory;
    expect(drafts).toBeGreaterThan(0);
    expect(drafts).toBeLessThan(states);
  });
});

describe('restore in place', () => {
  it('the sequence becomes the saved one, whatever it was', async () => {
    await using saved = await fed(someIds(90, 6));
    await saved.generate({ maxTokens: 3, ignoreEos: true }).completion();
    const bytes = await saved.save();
    const expected = (await saved.generate(sampled).completion()).ids;
    for (const before of [0, 20, 300]) {
      await using sequence = await fed(someIds(before, 7));
      await sequence.restore(bytes);
      expect(Buffer.compare(await sequence.save(), bytes)).toBe(0);
      expect((await sequence.generate(sampled).completion()).ids).toEqual(expected);
    }
  });

  it.each([promptLookup, lookahead])('in the middle of speculation: %o', async (drafter) => {
    const prompt = Int32Array.from({ length: 60 }, (_, i) => 100 + (i % 7));
    // up to and over the border of a page, which drafts cross before the tokens do
    for (const maxTokens of [1, 2, 3, 4, 5, 6, 7, 13]) {
      await using sequence = await fed(prompt);
      await sequence.generate({ maxTokens, ignoreEos: true, speculate: drafter() }).completion();
      await using twin = await model.restore(await sequence.save());
      const expected = (await sequence.generate({ ...sampled, speculate: drafter() }).completion()).ids;
      expect((await twin.generate(sampled).completion()).ids).toEqual(expected);
    }
  });

  it('fails, and the sequence is what it was', async () => {
    await using sequence = await fed(someIds(40, 8));
    const bytes = await sequence.save();
    const altered = Uint8Array.from(bytes);
    altered[bytes.length - 9]! ^= 4;
    expect(await errorOf(() => sequence.restore(altered))).toMatchObject({
      code: 'INVALID_STATE',
      operand: 'saved sequence: checksum',
    });
    expect(Buffer.compare(await sequence.save(), bytes)).toBe(0);
    for (const none of [undefined, 'x', new Int32Array(8)])
      expect((await errorOf(() => sequence.restore(none as unknown as Uint8Array))).code).toBe('INVALID_ARGUMENT');
  });

  it('bytes taken away meanwhile', async () => {
    await using sequence = await fed(someIds(40, 8));
    const bytes = await sequence.save();
    const restoring = errorOf(() => model.restore(bytes));
    structuredClone(bytes.buffer, { transfer: [bytes.buffer as ArrayBuffer] });
    expect((await restoring).code).toBe('INVALID_STATE');
  });
});

it('waiting for a place ends with its signal', async () => {
  await using full = await loadTiny({ sequences: 1 });
  await using sequence = await full.sequence();
  await sequence.feed(someIds(5));
  const bytes = await sequence.save();
  const reason = new Error('no longer wanted');
  for (const wait of [
    (signal: AbortSignal) => sequence.fork({ signal }),
    (signal: AbortSignal) => full.restore(bytes, { signal }),
  ]) {
    const abort = new AbortController();
    const waiting = reasonOf(() => wait(abort.signal));
    setTimeout(() => abort.abort(reason), 5);
    expect(await waiting).toBe(reason);
  }
  expect((await sequence.generate({ maxTokens: 2, ignoreEos: true }).completion()).ids).toHaveLength(2);
});

it('after dispose: a typed error', async () => {
  const sequence = await fed(someIds(10));
  const bytes = await sequence.save();
  await sequence.dispose();
  const calls: (() => unknown)[] = [
    () => sequence.fork(),
    () => sequence.rewind(1),
    () => sequence.restore(bytes),
    () => sequence.save(),
    () => sequence.bytes,
    () => sequence.sharedBytes,
  ];
  for (const call of calls) expect((await errorOf(call)).code).toBe('DISPOSED');
});
