import { existsSync } from 'node:fs';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DraftLength } from '../../src/generate/draft-length.js';
import { type Draft, draftModel, load, type Speculation } from '../../src/index.js';
import type { Model } from '../../src/model.js';
import { SuffixAutomaton } from '../../src/speculate/suffix-automaton.js';
import { parityFolder, tinyGguf } from '../support/models.js';

describe('SuffixAutomaton', () => {
  /** Longest suffix that also ends earlier, by trying all. */
  const longest = (tokens: readonly number[]): number => {
    for (let length = tokens.length - 1; length > 0; length--)
      for (let end = length; end < tokens.length; end++)
        if (tokens.slice(end - length, end).join() === tokens.slice(-length).join()) return length;
    return 0;
  };

  it('finds the longest earlier occurrence of the end', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 40 }), (tokens) => {
        const automaton = new SuffixAutomaton();
        tokens.forEach((token, i) => {
          automaton.push(token);
          const seen = tokens.slice(0, i + 1);
          const { length, end } = automaton.longestMatch();
          expect(length).toBe(longest(seen));
          if (length > 0) expect(seen.slice(end - length, end)).toEqual(seen.slice(-length));
          expect(end).toBeLessThanOrEqual(i);
        });
      }),
      { numRuns: 300, seed: 1 },
    );
  });
});

describe('DraftLength', () => {
  /** Rounds of a model with these costs (in ms) that accepts a token with probability `acceptance`. */
  const run = (costs: { plain: number; node: number; draft: number }, acceptance: number, rounds: number): number[] => {
    const length = new DraftLength();
    let seed = 1;
    const random = (): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return seed / 2 ** 32;
    };
    return Array.from({ length: rounds }, () => {
      const n = length.next();
      length.drafted(n, n * costs.draft);
      let accepted = 0;
      while (accepted < n && random() < acceptance) accepted++;
      length.settled({ ids: new Array<number>(n).fill(0) }, accepted, costs.plain + n * costs.node);
      return n;
    });
  };
  const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

  it('drafts long where it is cheap and right', () => {
    expect(mean(run({ plain: 10, node: 0.5, draft: 0.5 }, 0.95, 200).slice(50))).toBeGreaterThan(6);
  });

  it('falls to nothing where it never pays, and costs less than 3 %', () => {
    const lengths = run({ plain: 10, node: 2, draft: 2 }, 0, 500);
    const wasted = lengths.reduce((sum, n) => sum + n * 4, 0);
    expect(wasted / (500 * 10)).toBeLessThan(0.03);
    expect(mean(lengths.slice(100))).toBeLessThan(0.05);
  });

  it('comes back when it starts to pay', () => {
    const length = new DraftLength();
    for (let i = 0; i < 100; i++) {
      const n = length.next();
      length.settled({ ids: new Array<number>(n).fill(0) }, 0, 10 + n);
    }
    let last = 0;
    for (let i = 0; i < 400; i++) {
      last = length.next();
      length.settled({ ids: new Array<number>(last).fill(0) }, last, 10 + last * 0.1);
    }
    expect(last).toBeGreaterThan(2);
  });
});

describe('drafters that are wrong', () => {
  let model: Model;
  beforeAll(async () => {
    model = await load(tinyGguf, { context: 256 });
  });
  afterAll(() => model.dispose());
  const run = (speculate: Speculation) =>
    model.complete(Int32Array.of(1, 2, 3), { maxTokens: 8, ignoreEos: true, speculate });
  const proposing =
    (draft: unknown): Speculation =>
    () => ({ length: 4, propose: () => draft as Draft });

  it.each([
    ['an id past the vocabulary', { ids: [1 << 20] }, /ids\[0\]/],
    ['a negative id', { ids: [-1] }, /ids\[0\]/],
    ['no list', { tokens: [1] }, /draft/],
    ['nothing', undefined, /draft/],
    ['too many', { ids: [1, 2, 3, 4, 5] }, /at most 4/],
    ['parents of another length', { ids: [1, 2], parents: [-1] }, /parents/],
    ['a parent that comes later', { ids: [1, 2], parents: [1, -1] }, /parents\[0\]/],
  ])('%s', async (_, draft, message) => {
    await expect(run(proposing(draft))).rejects.toMatchObject({
      code: 'DRAFTER_ERROR',
      message: expect.stringMatching(message),
    });
  });

  it('one that throws', async () => {
    const cause = new Error('out of ideas');
    const speculate: Speculation = () => ({
      length: 1,
      propose() {
        throw cause;
      },
    });
    await expect(run(speculate)).rejects.toMatchObject({ code: 'DRAFTER_ERROR', cause });
    // and the model goes on
    await expect(run(() => ({ propose: () => ({ ids: [] }) }))).resolves.toBeDefined();
  });

  it('no function', async () => {
    await expect(run('lookup' as unknown as Speculation)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('a draft model of another vocabulary', async (context) => {
    const path = `${parityFolder}llama`;
    if (!existsSync(path)) context.skip(`needs ${path}`);
    await using other = await load(path);
    await expect(run(draftModel(other))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', operand: 'draft model' });
  });
});
