// Saved sequences and configs, mutated: each is taken or refused with a typed error, and the process lives.
import fc from 'fast-check';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { CrosscurrentError, load, type Model } from '../../src/index.js';
import { hybrid, hybridConfig } from './small-models.js';

const seed = 20261125;
const savedRuns = 3000;
const configRuns = 700;

let model: Model;
beforeAll(async () => {
  model = await load(hybrid, { context: 64, sequences: 2 });
});
afterAll(() => model.dispose());

const ids = Int32Array.from({ length: 20 }, (_, i) => i * 7);

it('saved sequences', { timeout: 120_000 }, async () => {
  const saved: Uint8Array[] = [];
  for (const generated of [0, 3]) {
    await using sequence = await model.sequence();
    await sequence.feed(ids);
    if (generated > 0) await sequence.generate({ maxTokens: generated, ignoreEos: true }).completion();
    saved.push(await sequence.save());
  }
  const header = 4 * 40;
  const at = fc.oneof({ weight: 4, arbitrary: fc.nat(header) }, { weight: 1, arbitrary: fc.nat(saved[0]!.length - 1) });
  const word = fc.oneof(
    fc.constantFrom(0, 1, -1, 2, 19, 20, 21, 63, 64, 65, 259, 260, 0x7fffffff, -0x80000000),
    fc.integer(),
  );
  const edits = fc.array(fc.record({ at, word, whole: fc.boolean() }), { minLength: 1, maxLength: 3 });
  const cut = fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: -40, max: 200 }));
  let [taken, refused] = [0, 0];
  await fc.assert(
    fc.asyncProperty(fc.constantFrom(...saved), edits, cut, async (original, changes, removed) => {
      const bytes = new Uint8Array(Math.max(original.length - removed, 0));
      bytes.set(original.subarray(0, bytes.length));
      const view = new DataView(bytes.buffer);
      for (const change of changes) {
        if (!change.whole && change.at < bytes.length) bytes[change.at] = change.word & 255;
        else if ((change.at & ~3) + 4 <= bytes.length) view.setInt32(change.at & ~3, change.word, true);
      }
      try {
        await using sequence = await model.restore(bytes);
        const room = model.info.context - sequence.length;
        if (taken++ % 8 === 0 && sequence.length > 0 && room > 0)
          await sequence.generate({ maxTokens: Math.min(room, 2), ignoreEos: true, temperature: 1 }).completion();
      } catch (error) {
        expect(error).toBeInstanceOf(CrosscurrentError);
        expect((error as CrosscurrentError).code).toBe('INVALID_STATE');
        refused++;
      }
    }),
    { seed, numRuns: savedRuns, timeout: 5000 },
  );
  // both ways out were taken, and no place was lost
  expect(taken).toBeGreaterThan(100);
  expect(refused).toBeGreaterThan(100);
  const again = await Promise.all([1, 2].map(() => model.complete(ids, { maxTokens: 4, ignoreEos: true })));
  expect(again[0]?.ids).toEqual(again[1]?.ids);
});

it('configs', { timeout: 120_000 }, async () => {
  const keys = [
    ...Object.keys(hybridConfig),
    ...['rope_theta', 'rope_scaling', 'rope_parameters', 'hidden_act', 'sliding_window', 'text_config'],
    ...['position_embedding_type', 'attention_multiplier', 'logits_scaling', 'mamba_d_conv', 'mamba_expand'],
    ...['quantization_config', 'time_step_limit', 'partial_rotary_factor', 'layers_block_type'],
  ];
  const value = fc.oneof(
    fc.constantFrom<unknown>(0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 48, -1, 0.5, 1e30, 2 ** 24, 2 ** 31, 2 ** 53),
    fc.constantFrom<unknown>(
      null,
      undefined,
      true,
      '',
      'x',
      'silu',
      'yarn',
      'llama',
      'mamba2',
      'nemotron_h',
      Number.NaN,
    ),
    fc.constantFrom<unknown>([], ['mamba', 'attention'], ['attention'], [1, 2], {}, { rope_type: 'yarn', factor: 0 }),
    fc.jsonValue({ maxDepth: 2 }),
  );
  const edits = fc.array(fc.tuple(fc.constantFrom(...keys), value), { minLength: 1, maxLength: 3 });
  let loaded = 0;
  await fc.assert(
    fc.asyncProperty(edits, async (changes) => {
      const config = { ...hybridConfig, ...Object.fromEntries(changes) };
      try {
        const other = await load({ config, tensors: hybrid.tensors }, { context: 32, sequences: 1 });
        loaded++;
        const { vocab } = other.info;
        await other.complete(Int32Array.of(0, Math.min(vocab - 1, 5)), { maxTokens: 2 });
        await other.dispose();
      } catch (error) {
        expect(error).toBeInstanceOf(CrosscurrentError);
        expect((error as CrosscurrentError).code).not.toBe('INTERNAL');
      }
    }),
    { seed, numRuns: configRuns, timeout: 10_000 },
  );
  expect(loaded).toBeGreaterThan(20);
  expect(loaded).toBeLessThan(configRuns);
});
