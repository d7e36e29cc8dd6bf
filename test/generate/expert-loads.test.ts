// How often each expert was chosen, in `model.stats`.
import { expect, it } from 'vitest';
import { load } from '../../src/index.js';
import { granite, randomTensors } from '../models/support.js';

const config = { ...granite, num_hidden_layers: 2, layer_types: ['mamba', 'attention'], num_local_experts: 3 };
const prompt = Int32Array.from({ length: 20 }, (_, i) => (7 * i + 1) % 50);
const withTop = async (num_experts_per_tok: number) => {
  const given = { ...config, num_experts_per_tok };
  return load({ config: given, tensors: await randomTensors(given, 4) }, { context: 64 });
};
const rowsOf = (model: Awaited<ReturnType<typeof withTop>>): number[][] =>
  (model.stats.experts ?? []).map(({ rows }) => [...rows]);

it('counts rows, layer by layer', async () => {
  await using model = await withTop(3);
  expect(model.stats.experts?.map(({ name }) => name)).toEqual(['layers.0', 'layers.1']);
  const before = rowsOf(model);
  await model.logits(prompt);
  expect(rowsOf(model)).toEqual(before.map((rows) => rows.map((n) => n + prompt.length)));
});

it('counts those that were chosen', async () => {
  await using model = await withTop(1);
  const before = rowsOf(model).map((rows) => rows.reduce((a, b) => a + b, 0));
  await model.logits(prompt);
  expect(rowsOf(model).map((rows) => rows.reduce((a, b) => a + b, 0))).toEqual(before.map((n) => n + prompt.length));
  // one token again and again goes one way in the first layer, whose input does not depend on what came before
  const first = rowsOf(model)[0] as number[];
  await model.complete(prompt.subarray(0, 1), { maxTokens: 1 });
  const changed = (rowsOf(model)[0] as number[]).map((n, i) => n - (first[i] as number));
  expect([...changed].sort()).toEqual([0, 0, 1]);
});

it('has none where there are no experts, and does not mind a model that was disposed', async () => {
  const plain = { ...config, num_local_experts: 0 };
  const model = await load({ config: plain, tensors: await randomTensors(plain, 4) }, { context: 64 });
  expect(model.stats.experts).toBeUndefined();
  await model.dispose();
  expect(model.stats.experts).toBeUndefined();
});
