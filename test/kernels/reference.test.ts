// Every kernel against its formula in f64, at every level of this machine.
import { describe, expect, it } from 'vitest';
import { checkCases, errorOf } from '../../src/kernels/cases/index.js';
import { devices } from '../../src/kernels/index.js';

const levels = devices()[0]!.isas;

describe.each([...new Set(checkCases.map(({ op }) => op))])('%s', (op) => {
  const cases = checkCases.filter((one) => one.op === op);
  it('is its formula, at every level, on one thread and on two', async () => {
    for (const { make } of cases) {
      const one = await make();
      const expected = one.expected();
      for (const isa of levels) {
        const alone: Record<string, ArrayLike<number>> = {};
        for (const threads of [1, 2]) {
          const got = await one.run({ isa, threads });
          expect(Object.keys(got).sort()).toEqual(Object.keys(expected).sort());
          for (const [key, values] of Object.entries(got)) {
            const where = `${one.label}, ${key} at ${isa} on ${threads}`;
            expect(errorOf(values, expected[key]!), where).toBeLessThanOrEqual(one.tolerance);
            // threads split rows, never sums
            if (threads === 1) alone[key] = values.slice();
            else expect(values, where).toEqual(alone[key]);
          }
        }
      }
      one.dispose?.();
    }
  });
});
