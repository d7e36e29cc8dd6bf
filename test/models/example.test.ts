import { expect, it } from 'vitest';
import { main } from '../../examples/my-hybrid.js';

it("examples/my-hybrid.ts: a hybrid of one's own runs, is saved, and gives the same logits when loaded back", async () => {
  const { made, loaded } = await main();
  expect(made).toHaveLength(8 * 256);
  expect(new Set(made).size).toBeGreaterThan(1000);
  expect(made.every(Number.isFinite)).toBe(true);
  expect(loaded).toEqual(made);
});
