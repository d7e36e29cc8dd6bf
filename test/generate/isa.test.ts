// Instruction-set levels: every one that this machine has gives the tokens of the best one, in a model of its own.
import { expect, it } from 'vitest';
import { devices, load } from '../../src/index.js';
import { ids, randomTensors, small } from '../models/support.js';

const config = { ...small, model_type: 'llama' };

it('are listed, best last, and chosen for a model', async () => {
  const [cpu] = devices();
  expect(cpu?.isas[0]).toBe('v2');
  expect(cpu?.isas.at(-1)).toBe(cpu?.isa);
  const tensors = await randomTensors(config);
  const logits: Float32Array[] = [];
  for (const isa of cpu?.isas ?? []) {
    await using model = await load({ config, tensors }, { isa, activations: 'exact', context: 64, sequences: 1 });
    expect(model.info.isa).toBe(isa);
    logits.push(await model.logits(ids));
  }
  const best = logits.at(-1) as Float32Array;
  for (const other of logits) {
    const differences = other.map((value, i) => Math.abs(value - (best[i] as number)));
    expect(Math.max(...differences)).toBeLessThan(1e-4);
  }
});

it('that are not there are refused', async () => {
  const tensors = await randomTensors(config);
  await expect(load({ config, tensors }, { isa: 'sse9' })).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    operand: 'isa',
    got: 'sse9',
  });
});
