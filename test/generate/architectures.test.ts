// Every architecture, small: tokens and logits of several sequences at once are the bits of each alone, and of a prompt fed in pieces.
import { existsSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { load, type Model } from '../../src/index.js';
import { fixtureFolder, missing } from '../parity/support.js';
import { fixtureNames } from '../support/models.js';

const lengths = [1, 2, 5, 17, 32, 33, 50, 64];

const promptOf = (length: number, vocab: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => (Math.imul(i + 31 * length, 2654435761) >>> 8) % vocab);

async function outcome(model: Model, length: number) {
  const prompt = promptOf(length, model.info.vocab);
  const options = { maxTokens: 8, ignoreEos: true, ...(length % 2 ? { temperature: 1, seed: length } : {}) };
  const [{ ids }, logits] = await Promise.all([model.complete(prompt, options), model.logits(prompt)]);
  return { ids, logits: new Uint8Array(logits.buffer) };
}

describe.skipIf(missing)(missing ?? 'several at once give what each gives alone', () => {
  describe.each(['exact', 'fast'] as const)('%s activations', (activations) => {
    it.each(fixtureNames)('%s', async (name) => {
      expect(existsSync(fixtureFolder + name)).toBe(true);
      await using model = await load(fixtureFolder + name, { activations, context: 96, sequences: 16 });
      const together = await Promise.all(lengths.map((length) => outcome(model, length)));
      for (const [i, length] of lengths.entries()) {
        const alone = await outcome(model, length);
        expect(together[i]?.ids, `${length} tokens`).toEqual(alone.ids);
        expect(Buffer.compare(together[i]!.logits, alone.logits), `${length} tokens`).toBe(0);
      }
      const prompt = promptOf(64, model.info.vocab);
      await using sequence = await model.sequence();
      for (const [from, to] of [
        [0, 1],
        [1, 20],
        [20, 51],
        [51, 64],
      ])
        await sequence.feed(prompt.subarray(from, to));
      const fed = await sequence.generate({ maxTokens: 8, ignoreEos: true }).completion();
      expect(fed.ids).toEqual(together.at(-1)?.ids);
    });
  });
});
