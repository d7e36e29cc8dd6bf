import { describe, expect, it } from 'vitest';
import { CrosscurrentError } from '../../src/errors.js';
import { compile } from '../../src/graph/compile.js';
import type { StoredTensor } from '../../src/graph/index.js';
import { findModel, models } from '../../src/models/index.js';
import { Config, type RawConfig } from '../../src/weights/config.js';
import { parseConfig, safetensorsCheckpoint } from '../../src/weights/huggingface.js';
import { granite, small } from './support.js';

/** The compiled program of a config, as text and as what it keeps of the weights. */
async function programOf(
  raw: RawConfig,
  bounds = { t: 8, seqs: 2, rows: 2 },
): Promise<{ text: string; values: (Float32Array | undefined)[] }> {
  const model = findModel(new Config(raw).modelType);
  const named = await model.tensors(raw);
  const tensors = named.map(({ name, shape }): StoredTensor => ({ name, shape, dtype: 'f32', bytes: 0 }));
  const { graph, logits } = await model.build(raw, safetensorsCheckpoint(tensors));
  const program = await compile(graph, { logits }, { bounds });
  return { text: program.print(), values: graph.weights.map(({ values }) => values) };
}

const bamba = {
  ...small,
  model_type: 'bamba',
  mamba_n_heads: 8,
  mamba_d_head: 8,
  mamba_d_state: 8,
  intermediate_size: 40,
};
const nemotron = {
  ...small,
  model_type: 'nemotron_h',
  mamba_num_heads: 8,
  mamba_head_dim: 8,
  n_groups: 2,
  ssm_state_size: 8,
  conv_kernel: 4,
};
const llama = { ...small, model_type: 'llama' };

describe('the two dialects of configs', () => {
  it.each<[string, RawConfig, RawConfig]>([
    [
      'rope_theta',
      { ...llama, rope_theta: 5e5 },
      { ...llama, rope_parameters: { rope_type: 'default', rope_theta: 5e5 } },
    ],
    [
      'rope_scaling of Llama 3',
      {
        ...llama,
        rope_theta: 5e5,
        rope_scaling: {
          type: 'llama3',
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 64,
        },
      },
      {
        ...llama,
        rope_parameters: {
          rope_type: 'llama3',
          rope_theta: 5e5,
          factor: 8,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 64,
        },
      },
    ],
    [
      'rope_scaling of YaRN',
      { ...llama, rope_scaling: { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 64 } },
      {
        ...llama,
        rope_parameters: { rope_type: 'yarn', rope_theta: 10000, factor: 4, original_max_position_embeddings: 64 },
      },
    ],
    [
      'a nested text tower',
      llama,
      { model_type: 'some_vision_model', text_config: llama, vision_config: { hidden_size: 7 } },
    ],
    [
      'mamba or linear_attention',
      granite,
      { ...granite, layer_types: ['linear_attention', 'full_attention'], rope_parameters: { rope_theta: 10000 } },
    ],
    [
      'attn_layer_indices',
      { ...bamba, attn_layer_indices: [1] },
      {
        ...bamba,
        layer_types: ['linear_attention', 'full_attention'],
        rope_parameters: { partial_rotary_factor: 0.5 },
      },
    ],
    [
      'hybrid_override_pattern',
      { ...nemotron, hybrid_override_pattern: 'M*-', num_hidden_layers: 3 },
      { ...nemotron, num_hidden_layers: undefined, layers_block_type: ['linear_attention', 'full_attention', 'mlp'] },
    ],
    [
      'time_step_limit with an infinity',
      { ...nemotron, hybrid_override_pattern: 'MM' },
      { ...nemotron, hybrid_override_pattern: 'MM', time_step_limit: [0, { __float__: 'Infinity' }] },
    ],
    [
      'window null',
      { ...small, model_type: 'mistral', sliding_window: null },
      { ...small, model_type: 'mistral', layer_types: ['full_attention', 'full_attention'] },
    ],
  ])('agree: %s', async (_, hub, recent) => expect(await programOf(recent)).toEqual(await programOf(hub)));

  it('take the usual value of the architecture where a key is absent', async () => {
    const thetaOf = async (model_type: string): Promise<number | undefined> => {
      // frequency 1 of 4 pairs is theta^(-1/4)
      const { values: all } = await programOf({ ...small, model_type });
      const values = all.find((each) => each !== undefined);
      return values && Math.round((values[1] as number) ** -4);
    };
    expect(await thetaOf('llama')).toBe(10000);
    expect(await thetaOf('smollm3')).toBe(2e6);
    expect(await thetaOf('mixtral')).toBe(1e6);
    expect((await programOf({ ...small, model_type: 'mistral' })).text).toContain('window=4096');
    expect((await programOf({ ...small, model_type: 'qwen2' })).text).not.toMatch(/window=[^0]/);
  });

  it('rotate three layers of four in SmolLM3, and none of Granite unless it says so', async () => {
    const ropes = async (raw: RawConfig): Promise<number> =>
      (await programOf(raw)).text.match(/ = rope\(/g)?.length ?? 0;
    expect(await ropes({ ...small, model_type: 'smollm3', num_hidden_layers: 8 })).toBe(6);
    expect(await ropes({ ...small, model_type: 'smollm3', num_hidden_layers: 4, no_rope_layers: [0, 1, 0, 0] })).toBe(
      1,
    );
    expect(await ropes(granite)).toBe(0);
    expect(await ropes({ ...granite, position_embedding_type: 'rope' })).toBe(1);
  });

  it('slide the layers that Qwen says', async () => {
    const windows = async (raw: RawConfig): Promise<string[]> => (await programOf(raw)).text.match(/window=\d+/g) ?? [];
    const qwen = { ...small, model_type: 'qwen2', use_sliding_window: true, sliding_window: 32 };
    expect(await windows({ ...qwen, max_window_layers: 1 })).toEqual(['window=0', 'window=32']);
    expect(await windows({ ...qwen, layer_types: ['sliding_attention', 'full_attention'] })).toEqual([
      'window=32',
      'window=0',
    ]);
  });

  it('reads what Python writes', () => {
    expect(parseConfig('config.json', '{"a": [0.0, Infinity], "b": "Infinity NaN \\" NaN", "c": -Infinity}')).toEqual({
      a: [0, { __float__: 'Infinity' }],
      b: 'Infinity NaN " NaN',
      c: { __float__: '-Infinity' },
    });
  });
});

describe('a wrong config', () => {
  it.each<[string, RawConfig, string, RegExp]>([
    ['no sizes', { model_type: 'llama' }, 'INVALID_FILE', /hidden_size: expected .*, got nothing/],
    ['a size of text', { ...llama, hidden_size: '32' }, 'INVALID_FILE', /hidden_size.*got 32/],
    ['an absurd size', { ...llama, hidden_size: 2 ** 40 }, 'INVALID_FILE', /hidden_size/],
    [
      'absurdly many layers',
      { ...llama, num_hidden_layers: 2 ** 31 - 1 },
      'INVALID_FILE',
      /num_hidden_layers: expected a size, 1..512/,
    ],
    ['absurdly many experts', { ...granite, num_local_experts: 2 ** 30 }, 'INVALID_FILE', /num_local_experts/],
    ['a negative size', { ...llama, num_attention_heads: -4 }, 'INVALID_FILE', /num_attention_heads/],
    [
      'an unknown rotation',
      { ...llama, rope_scaling: { type: 'longrope' } },
      'UNSUPPORTED_FORMAT',
      /rope_type.*longrope/,
    ],
    ['an unknown activation', { ...llama, hidden_act: 'tanh' }, 'UNSUPPORTED_FORMAT', /hidden_act.*got tanh/],
    [
      'an unknown kind of layer',
      { ...granite, layer_types: ['mamba', 'rwkv'] },
      'UNSUPPORTED_FORMAT',
      /kind of a layer.*got rwkv/,
    ],
    ['too few kinds of layers', { ...granite, layer_types: ['mamba'] }, 'INVALID_FILE', /expected 2 .*got 1/],
    ['a prototype for a name', { ...llama, hidden_act: 'constructor' }, 'UNSUPPORTED_FORMAT', /constructor/],
    ['no model_type', { ...small }, 'INVALID_FILE', /model_type/],
    ['an odd rotation', { ...llama, rotary_dim: 7 }, 'INVALID_FILE', /rotary_dim/],
    ['a rotation wider than a head', { ...llama, partial_rotary_factor: 2 }, 'INVALID_FILE', /rotary_dim/],
    ['heads that no group fits', { ...llama, num_key_value_heads: 3 }, 'INVALID_FILE', /num_key_value_heads/],
    ['groups that no heads fit', { ...nemotron, hybrid_override_pattern: 'MM', n_groups: 3 }, 'INVALID_FILE', /groups/],
  ])('is a typed error: %s', async (_, raw, code, message) => {
    await expect(programOf(raw)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('names the architectures there are', () => {
    expect(() => findModel('gpt2')).toThrow(
      expect.objectContaining({
        code: 'UNSUPPORTED_ARCHITECTURE',
        expected: models.map(({ type }) => type).join(', '),
        got: 'gpt2',
      }),
    );
  });
});

it('a hostile config ends in a typed error or a program', async () => {
  const hostile = [0, -1, 1.5, 2 ** 24, 2 ** 31, 1e308, true, null, 'x', [], [0, 1], {}, { __float__: 'Infinity' }];
  const full: RawConfig[] = [
    llama,
    granite,
    { ...nemotron, hybrid_override_pattern: 'M*-' },
    { ...bamba, attn_layer_indices: [1] },
    {
      ...small,
      model_type: 'mixtral',
      num_local_experts: 4,
      num_experts_per_tok: 2,
      rope_theta: 1e4,
      sliding_window: 8,
    },
    { ...small, model_type: 'mamba', state_size: 8, expand: 2, time_step_rank: 4, conv_kernel: 4 },
    {
      ...small,
      model_type: 'jamba',
      attn_layer_period: 2,
      attn_layer_offset: 1,
      num_experts: 2,
      mamba_dt_rank: 'auto',
    },
  ];
  for (const raw of full) {
    for (const key of Object.keys(raw)) {
      for (const value of hostile) {
        try {
          const changed = { ...raw, [key]: value };
          await findModel(new Config(changed).modelType).tensors(changed);
        } catch (error) {
          if (!(error instanceof CrosscurrentError))
            throw new Error(`${raw.model_type}: ${key} = ${JSON.stringify(value)}`, { cause: error });
        }
      }
    }
  }
});

it('sizes that do not fit a program are refused', async () => {
  const model = programOf({ ...small, model_type: 'llama' }, { t: 2 ** 33, seqs: 2, rows: 2 });
  await expect(model).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', operand: 'graph' });
});
