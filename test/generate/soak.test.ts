// Seconds of many requests at once, with drafters, priorities and aborts at random: every answer is the one its request gives alone, and no place is lost.
// Minutes of it, with timings: npm run bench -- soak.
import { describe, expect, it } from 'vitest';
import { soak } from '../../bench/lib/soak.js';
import { load } from '../../src/index.js';
import { missing, parityFolder, tinyGguf } from '../support/models.js';

const seed = 20261125;
const sequences = 6;

describe.each([
  { name: 'the model that ships', path: tinyGguf, seconds: 6 },
  { name: 'mamba2', path: `${parityFolder}mamba2`, seconds: 2 },
  { name: 'jamba', path: `${parityFolder}jamba`, seconds: 2 },
])('$name', ({ path, seconds }) => {
  const reason = missing(path);
  it.skipIf(reason)(reason ? `needs ${reason}` : `${seconds} seconds`, { timeout: 120_000 }, () => run(path, seconds));
});

async function run(path: string, seconds: number): Promise<void> {
  const options = { context: 256, threads: 2 };
  await using model = await load(path, { ...options, sequences, cacheTokens: 640 });
  await using draft = await load(path, { ...options, sequences: 4 });
  const concurrency = 16;
  const report = await soak(model, { seconds, concurrency, seed, draft, kinds: 12, mostTokens: 32 });
  expect({ wrong: report.wrong, errors: report.errors }).toEqual({ wrong: [], errors: [] });
  expect(report.finished).toBeGreaterThan(concurrency);
  expect(report.aborted).toBeGreaterThan(0);
  expect(report.accepted).toBeGreaterThan(0);
  // every place is free again
  const all = await Promise.all(Array.from({ length: sequences }, () => model.sequence()));
  for (const sequence of all) await sequence.dispose();
}
