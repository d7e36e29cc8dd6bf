// Words that JavaScript can hand over, mutated: each is run or refused with a typed error, and the process lives.
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CrosscurrentError } from '../../src/errors.js';
import { parseProgram } from '../../src/native/index.js';
import { type Opened, open, stepOf, tinyModel } from './support.js';

const seed = 20260701;
const model = await tinyModel();
let opened: Opened;

beforeAll(async () => {
  opened = await open(model);
});
afterAll(() => opened.session.close());

/** Values near the borders of what words mean, and any others. */
const word = fc.oneof(
  fc.constantFrom(0, 1, -1, 2, 3, 63, 64, 65, 0x7fffffff, -0x80000000, 0x40000000, 0x7f800000, 0x7fc00000),
  fc.integer({ min: -2, max: 40 }),
  fc.integer({ min: -0x80000000, max: 0x7fffffff }),
);

const edit = (length: number) =>
  fc.oneof(
    { weight: 8, arbitrary: fc.record({ kind: fc.constant('set'), at: fc.nat(length - 1), value: word }) },
    {
      weight: 2,
      arbitrary: fc.record({ kind: fc.constant('add'), at: fc.nat(length - 1), value: fc.constantFrom(1, -1, 16) }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        kind: fc.constantFrom('remove', 'repeat', 'cut'),
        at: fc.nat(length - 1),
        value: fc.nat(8),
      }),
    },
  );

function mutate(words: Int32Array, edits: readonly { kind: string; at: number; value: number }[]): Int32Array {
  let result = [...words];
  for (const { kind, at, value } of edits) {
    if (kind === 'set') result[at] = value;
    else if (kind === 'add') result[at] = (result[at] ?? 0) + value;
    else if (kind === 'remove') result.splice(at, value);
    else if (kind === 'repeat') result.splice(at, 0, ...result.slice(at, at + value));
    else result = result.slice(0, at);
  }
  return Int32Array.from(result);
}

const mutated = (words: Int32Array) =>
  fc.array(edit(words.length), { minLength: 1, maxLength: 3 }).map((edits) => mutate(words, edits));

it('program words', () => {
  let accepted = 0;
  fc.assert(
    fc.property(mutated(model.program.words), (words) => {
      try {
        parseProgram(words).close();
        accepted++;
      } catch (error) {
        expect(error).toBeInstanceOf(CrosscurrentError);
        expect((error as CrosscurrentError).code).toBe('INVALID_PROGRAM');
      }
    }),
    { seed, numRuns: 6000 },
  );
  // both ways out were taken
  expect(accepted).toBeGreaterThan(0);
  expect(accepted).toBeLessThan(6000);
});

it('any words', () => {
  fc.assert(
    fc.property(fc.int32Array({ maxLength: 400 }), (words) => {
      expect(() => parseProgram(words)).toThrow(CrosscurrentError);
    }),
    { seed, numRuns: 500 },
  );
});

it('step words', async () => {
  const valid = [
    stepOf({ ids: [1, 2, 3, 4], rows: [1, 3] }),
    stepOf({ ids: [1, 2, 3], decode: true, pages: [3, 4] }),
    stepOf({ ids: [5], decode: true, length: 4, accepted: [0], pages: [0, 1] }),
    stepOf({ ids: [7, 8], slot: 2, pages: [2], samples: false }),
  ];
  const refusals = new Set(['INVALID_ARGUMENT', 'TOKEN_OUT_OF_RANGE', 'CONTEXT_OVERFLOW', 'INVALID_STATE']);
  let accepted = 0;
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...valid).chain(mutated), fc.boolean(), async (words, logits) => {
      try {
        await opened.session.step(words, { logits });
        accepted++;
      } catch (error) {
        expect(error).toBeInstanceOf(CrosscurrentError);
        expect(refusals).toContain((error as CrosscurrentError).code);
      }
    }),
    { seed, numRuns: 4000 },
  );
  expect(accepted).toBeGreaterThan(0);
  // the session still works
  expect((await opened.session.step(stepOf({ ids: [1, 2, 3] }), { ids: true })).ids).toHaveLength(1);
});

it('saved states', async () => {
  const { session } = opened;
  await session.step(stepOf({ ids: [1, 2, 3], pages: [5] }));
  const saved = await session.save(0, Int32Array.of(5));
  const header = 24;
  const bytes = fc.array(fc.tuple(fc.nat(header - 1), fc.nat(255)), { minLength: 1, maxLength: 4 });
  await fc.assert(
    fc.asyncProperty(bytes, fc.integer({ min: 0, max: 40 }), async (edits, cut) => {
      const copy = saved.slice(0, saved.length - (cut > 20 ? cut : 0));
      for (const [at, value] of edits) copy[at] = value;
      try {
        await session.restore(copy, 1, Int32Array.of(6));
      } catch (error) {
        expect((error as CrosscurrentError).code).toBe('INVALID_STATE');
      }
    }),
    { seed, numRuns: 2000 },
  );
});
