// One model under the names and layouts that different checkpoints use gives the same bits.
import { describe, expect, it } from 'vitest';
import { load, type ModelSource } from '../../src/index.js';
import type { RawConfig } from '../../src/weights/config.js';
import type { NamedTensors } from '../../src/weights/safetensors.js';
import { granite, ids, joined, randomTensors, renamed, small } from './support.js';

async function logitsOf(source: ModelSource): Promise<Float32Array> {
  await using model = await load(source, { activations: 'exact', context: 64, sequences: 1 });
  return await model.logits(ids);
}

async function expectSame(config: RawConfig, a: NamedTensors, b: NamedTensors): Promise<void> {
  expect(Object.keys(a).sort(), 'the layouts differ').not.toEqual(Object.keys(b).sort());
  const logits = await logitsOf({ config, tensors: a });
  expect(logits.every(Number.isFinite)).toBe(true);
  expect(await logitsOf({ config, tensors: b })).toEqual(logits);
}

const sparse = {
  ...small,
  model_type: 'qwen3_moe',
  num_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 16,
};
const each = await randomTensors(sparse);

describe('experts', () => {
  /** Replaces `experts.{e}.{name}.weight` of every layer by what `make` returns for them. */
  function withExperts(
    make: (prefix: string, of: (name: string) => NamedTensors[string][]) => NamedTensors,
  ): NamedTensors {
    const rest = Object.entries(each).filter(([name]) => !name.includes('.experts.'));
    const made = [0, 1].map((layer) => {
      const prefix = `model.layers.${layer}.mlp.experts`;
      return make(prefix, (name) =>
        [0, 1, 2, 3].map((e) => each[`${prefix}.${e}.${name}.weight`] as NamedTensors[string]),
      );
    });
    return Object.assign(Object.fromEntries(rest), ...made);
  }

  it('are matrices of their own or stacks of each kind', () =>
    expectSame(
      sparse,
      each,
      withExperts((prefix, of) =>
        Object.fromEntries(
          ['gate_proj', 'up_proj', 'down_proj'].map((name) => [`${prefix}.${name}.weight`, joined(of(name), 'stack')]),
        ),
      ),
    ));

  it('are matrices of their own or stacks of gate over up', () =>
    expectSame(
      sparse,
      each,
      withExperts((prefix, of) => {
        const [gates, ups] = [of('gate_proj'), of('up_proj')];
        const pairs = gates.map((gate, e) => joined([gate, ups[e] as NamedTensors[string]], 'concat'));
        return {
          [`${prefix}.gate_up_proj`]: joined(pairs, 'stack'),
          [`${prefix}.down_proj`]: joined(of('down_proj'), 'stack'),
        };
      }),
    ));

  it('of Mixtral lie under block_sparse_moe or mlp', async () => {
    const mixtral = { ...small, model_type: 'mixtral', num_local_experts: 4 };
    const tensors = await randomTensors(mixtral);
    await expectSame(
      mixtral,
      tensors,
      renamed(tensors, (name) => name.replace('.block_sparse_moe.', '.mlp.')),
    );
  });

  it('of Granite are fused, or split as GGUF files have them; so is its shared MLP', async () => {
    const fused = await randomTensors(granite);
    const split: Record<string, NamedTensors[string]> = {};
    for (const [name, tensor] of Object.entries(fused)) {
      const rename = (to: string) => name.replace(/(block_sparse_moe|shared_mlp)\.(input|output)_linear/, to);
      const experts = name.includes('block_sparse_moe') ? 'block_sparse_moe.experts' : 'shared_mlp';
      if (name.endsWith('.output_linear.weight')) split[rename(`${experts}.down_proj`)] = tensor;
      else if (!name.endsWith('.input_linear.weight')) split[name] = tensor;
      else
        for (const [which, part] of ['gate_proj', 'up_proj'].entries()) {
          const [rows, columns] = tensor.shape.slice(-2) as [number, number];
          const half = (rows / 2) * columns;
          const data = tensor.data.filter((_, i) => Math.floor(i / half) % 2 === which);
          split[rename(`${experts}.${part}`)] = { shape: [...tensor.shape.slice(0, -2), rows / 2, columns], data };
        }
    }
    await expectSame(granite, fused, split);
  });
});

describe('names', () => {
  const mamba = { model_type: 'mamba', vocab_size: 128, hidden_size: 32, num_hidden_layers: 2, state_size: 8 };
  const plain = { ...small, model_type: 'llama', tie_word_embeddings: false };
  it.each([
    ['backbone or model', mamba, (name: string) => name.replace('backbone.', 'model.')],
    ['embeddings or embedding', mamba, (name: string) => name.replace('.embeddings.', '.embedding.')],
    ['a model, or the language model of a larger one', plain, (name: string) => `language_model.${name}`],
    [
      'a model, or the language model inside a larger one',
      plain,
      (name: string) => name.replace('model.', 'model.language_model.'),
    ],
  ])('may be of %s', async (_, config, rename) => {
    const tensors = await randomTensors(config);
    await expectSame(config, tensors, renamed(tensors, rename));
  });

  it('may give the shape of a convolution with an axis of one', async () => {
    const tensors = await randomTensors(mamba);
    const deep = Object.entries(tensors).map(([name, { shape, data }]) => {
      const [channels, kernel] = shape as [number, number];
      return [name, { shape: name.endsWith('conv1d.weight') ? [channels, 1, kernel] : shape, data }];
    });
    expect(await logitsOf({ config: mamba, tensors: Object.fromEntries(deep) })).toEqual(
      await logitsOf({ config: mamba, tensors }),
    );
  });
});
