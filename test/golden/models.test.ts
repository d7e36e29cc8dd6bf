// The two real models against transformers in float32: last logits, perplexity, and 96 greedy tokens of 12 prompts each.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { load } from '../../src/index.js';
import type { Model } from '../../src/model.js';
import { goldenFolder, missing, smollm2Gguf, tinyFolder, tinyGguf } from '../support/models.js';
import { readSafetensors } from '../support/safetensors.js';

const cases = [
  { name: 'smollm2', path: smollm2Gguf },
  { name: 'tiny_q4_1', path: tinyGguf },
  { name: 'tiny', path: tinyFolder },
];
/** Absolute, on logits of -22..35; the float32 and float64 passes of the reference differ by 1e-4. */
const tolerance = 1e-3;
const window = 1024;

function maxDifference(a: Float32Array, b: Float32Array): number {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - (b[i] as number))), 0);
}

/** Mean negative log-likelihood of windows that do not overlap, the first token of each not scored. */
async function meanNll(model: Model, ids: Int32Array): Promise<number> {
  let [sum, count] = [0, 0];
  for (let start = 0; start < ids.length; start += window) {
    const part = ids.subarray(start, start + window);
    const logits = await model.logits(part);
    const { vocab } = model.info;
    for (let i = 0; i + 1 < part.length; i++, count++) {
      const row = logits.subarray(i * vocab, (i + 1) * vocab);
      const largest = row.reduce((m, v) => Math.max(m, v), Number.NEGATIVE_INFINITY);
      const total = row.reduce((s, v) => s + Math.exp(v - largest), 0);
      sum += largest + Math.log(total) - (row[part[i + 1] as number] as number);
    }
  }
  return sum / count;
}

describe.each(cases)('$name', ({ name, path }) => {
  const file = `${goldenFolder}${name}.golden.safetensors`;
  const reason = missing(file, path);
  if (reason) return void it.skip(`needs its files: ${reason}`, () => {});
  const golden = readSafetensors(file);
  const prompts = [...golden.keys()]
    .filter((key) => key.endsWith('.prompt_ids'))
    .map((key) => key.slice(0, -'.prompt_ids'.length));
  const ints = (key: string): Int32Array => golden.get(key)?.data as Int32Array;
  const floats = (key: string): Float32Array => golden.get(key)?.data as Float32Array;
  let model: Model;
  beforeAll(async () => {
    model = await load(path, { activations: 'exact' });
  });
  afterAll(() => model.dispose());

  it('has twelve prompts', () => expect(prompts).toHaveLength(12));

  it.each(prompts)(
    '%s: last logits and 96 greedy tokens',
    async (prompt) => {
      const ids = ints(`${prompt}.prompt_ids`);
      const logits = await model.logits(ids);
      const last = logits.subarray(logits.length - model.info.vocab);
      expect(maxDifference(last, floats(`${prompt}.last_logits`))).toBeLessThanOrEqual(tolerance);
      const { ids: greedy } = await model.complete(ids, { maxTokens: 96, ignoreEos: true });
      expect(greedy).toEqual([...ints(`${prompt}.greedy_ids`)]);
    },
    120_000,
  );

  it('perplexity within 0.1 %', async () => {
    const nll = floats('perplexity.nll');
    const expected = nll.reduce((sum, value) => sum + value, 0) / nll.length;
    // the goldens of the two forms of tiny share one text
    const text =
      ints('perplexity.ids') ??
      (readSafetensors(`${goldenFolder}tiny.golden.safetensors`).get('perplexity.ids')?.data as Int32Array);
    const got = await meanNll(model, text);
    expect(Math.abs(Math.exp(got - expected) - 1)).toBeLessThanOrEqual(1e-3);
  }, 300_000);
});
