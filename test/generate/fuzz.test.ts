// Configs, mutated: each is taken or refused with a typed error, and the process lives.
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { CrosscurrentError, load } from '../../src/index.js';
import { hybrid, hybridConfig } from './small-models.js';

const seed = 20261125;
const configRuns = 700;

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
