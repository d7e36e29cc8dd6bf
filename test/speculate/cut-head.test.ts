// Drafting with the first ids of the vocabulary alone: what is guessed, that the output stays the plain one, and what it takes of memory.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { compile } from '../../src/graph/compile.js';
import { Graph } from '../../src/graph/graph.js';
import type { Tensor } from '../../src/graph/tensor.js';
import { draftModel, type GenerateOptions, load, type SpeculationTarget, selfDraft, tree } from '../../src/index.js';
import type { Model } from '../../src/model.js';
import { openAddon } from '../../src/native/addon.js';
import { parseProgram } from '../../src/native/index.js';
import { embedding, gatherRows, linear } from '../../src/ops/index.js';
import { granite, randomTensors } from '../models/support.js';
import { withLength } from './support.js';

const vocab = 64;
const cut = 24;
const config = { ...granite, vocab_size: vocab, num_hidden_layers: 2, layer_types: ['mamba', 'attention'] };
const tensors = await randomTensors(config, 9);
const prompt = Int32Array.from({ length: 12 }, (_, i) => (i * 7 + 3) % vocab);
const loadRandom = (): Promise<Model> => load({ config, tensors }, { context: 96 });
const targetOf = (sampling: object = {}): SpeculationTarget =>
  ({ vocab, context: 96, sampling: { seed: 1n, ...sampling }, tokenizer: undefined }) as SpeculationTarget;

let model: Model;
let scores: Float32Array;
beforeAll(async () => {
  model = await loadRandom();
  scores = (await model.logits(prompt)).slice(-vocab);
});
afterAll(() => model.dispose());

describe('a cut head', () => {
  it('guesses the likeliest of the first ids', async () => {
    const drafter = await draftModel(model, { vocab: cut })(targetOf());
    const { ids } = await drafter.propose({ ids: [...prompt], limit: 1 });
    const first = scores.subarray(0, cut);
    expect(ids).toEqual([first.indexOf(Math.max(...first))]);
    await drafter.dispose?.();
  });

  it.each([1, 0.7])('ranks them by their probabilities, temperature %d', async (temperature) => {
    const drafter = await draftModel(model, { vocab: cut })(
      targetOf({ temperature: temperature === 1 ? 0 : temperature }),
    );
    const request = { ids: [...prompt], draft: { ids: [] }, nodes: [-1], width: 4 };
    const [branches] = (await drafter.branches?.(request)) ?? [];
    const weights = Array.from(scores.subarray(0, cut), (logit) => Math.exp(logit / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const best = weights.map((weight, id) => ({ id, probability: weight / total }));
    best.sort((a, b) => b.probability - a.probability);
    if (temperature === 1) {
      expect(branches?.map(({ id }) => id)).toEqual(best.slice(0, 4).map(({ id }) => id));
      for (const [i, branch] of branches?.entries() ?? [])
        expect(branch.probability).toBeCloseTo(best[i]?.probability as number, 5);
    } else {
      // its own choice by the target's noise, then the others by their shares of the doubt
      const [choice, ...others] = branches as { id: number; probability: number }[];
      const own = weights[choice?.id as number] as number;
      expect(choice?.probability).toBeCloseTo(1 - (1 - own / total) / 2, 5);
      const rest = best.filter(({ id }) => id !== choice?.id).slice(0, 3);
      expect(others.map(({ id }) => id)).toEqual(rest.map(({ id }) => id));
      for (const [i, { probability }] of others.entries())
        expect(probability).toBeCloseTo((rest[i]?.probability as number) / 2, 5);
    }
    await drafter.dispose?.();
  });

  it.each<[string, GenerateOptions]>([
    ['greedy', {}],
    ['sampled', { temperature: 0.9, topK: 40, seed: 5 }],
    [
      'with penalties over ids that it does not say',
      { repetitionPenalty: 1.3, frequencyPenalty: 0.2, temperature: 0.8, seed: 6 },
    ],
    ['with a bias on one of those', { logitBias: { [vocab - 1]: 30, 3: 2 } }],
  ])('leaves the output as it is: %s', async (_, options) => {
    const plain = await model.complete(prompt, { maxTokens: 24, ...options });
    const drafters = [
      draftModel(model, { vocab: cut }),
      tree(draftModel(model, { vocab: 1 })),
      draftModel(model, { vocab: 1e6 }),
    ];
    for (const speculate of drafters) {
      const { ids, stats } = await model.complete(prompt, {
        maxTokens: 24,
        speculate: withLength(speculate, 3),
        ...options,
      });
      expect(ids).toEqual(plain.ids);
      expect(stats.speculation?.drafted).toBeGreaterThan(0);
    }
  });

  it.each([0, -1, 1.5, Number.NaN])('refuses a vocabulary of %d', (wrong) => {
    expect(() => draftModel(model, { vocab: wrong })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', operand: 'vocab' }),
    );
  });
});

it('counts what drafting takes of memory, from its first use', async () => {
  await using own = await loadRandom();
  const before = own.info.memory;
  expect(before.drafting).toBe(0);
  await own.complete(prompt, { maxTokens: 4, speculate: selfDraft({ layers: 1 }) });
  const { drafting, total } = own.info.memory;
  expect(drafting).toBeGreaterThan(0);
  expect(total).toBe(before.total + drafting);
  await own.complete(prompt, { maxTokens: 4, speculate: selfDraft({ layers: 1 }) });
  expect(own.info.memory.drafting).toBe(drafting);
});

it('takes the first rows of matrices alone', () => {
  const graph = new Graph();
  const part = { parts: [], transform: 'none' } as const;
  const matrix = graph.weight({ name: 'm', form: 'matrix', shape: [8, 4], ...part });
  const vector = graph.weight({ name: 'v', form: 'f32', shape: [8], ...part });
  expect(graph.firstRows(matrix, 3)).toMatchObject({ shape: [3, 4], storage: matrix.storage });
  for (const wrong of [
    () => graph.firstRows(vector, 3),
    () => graph.firstRows(matrix, 9),
    () => graph.firstRows(matrix, 0),
  ])
    expect(wrong).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT', operand: 'firstRows' }));
});

it('parses a program that has a matrix whole and its first rows, and none that has it in two other shapes', async () => {
  await openAddon();
  const parsed = async (change: (weight: Tensor) => Tensor): Promise<void> => {
    const graph = new Graph();
    const part = { parts: [], transform: 'none' } as const;
    const weight = graph.weight({ name: 'm', form: 'matrix', shape: [8, 4], ...part });
    const x = embedding({ ids: graph.input('ids'), weight, scale: 1 }).y;
    const wanted = gatherRows({ x, index: graph.input('rows') }).y;
    const changed = change(weight);
    const [rows, columns] = changed.shape as [number, number];
    const head = linear({
      x: { ...wanted, shape: [wanted.shape[0]!, columns] },
      weight: changed,
      scale: 1,
      exact: false,
    }).y;
    expect(head.shape[1]).toBe(rows);
    const { words } = await compile(graph, { logits: head }, { bounds: { t: 4, seqs: 1, rows: 4 } });
    parseProgram(words).close();
  };
  await parsed((weight) => weight.graph.firstRows(weight, 3));
  await parsed((weight) => weight);
  const narrower = (weight: Tensor): Tensor => ({ ...weight, id: weight.id + 1000, shape: [8, 2], rowStride: 2 });
  await expect(parsed(narrower)).rejects.toMatchObject({ code: 'INVALID_PROGRAM', expected: 'one shape' });
});
