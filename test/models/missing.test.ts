// Tensors that are missing or of another shape: one error lists them all.
import { describe, expect, it } from 'vitest';
import { CrosscurrentError, load } from '../../src/index.js';
import type { NamedTensors } from '../../src/weights/safetensors.js';
import { granite, randomTensors, small } from './support.js';

async function loadError(config: { model_type: string }, tensors: NamedTensors): Promise<CrosscurrentError> {
  const error = await load({ config, tensors }).then(
    async (model) => {
      await model.dispose();
      throw new Error('loaded');
    },
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(CrosscurrentError);
  return error as CrosscurrentError;
}

/** Without some tensors, and some others with a row less. */
function damaged(tensors: NamedTensors, removed: readonly string[], reshaped: readonly string[]): NamedTensors {
  const kept = Object.entries(tensors).filter(([name]) => !removed.includes(name));
  return Object.fromEntries(
    kept.map(([name, tensor]) => {
      if (!reshaped.includes(name)) return [name, tensor];
      const [rows = 1, ...rest] = tensor.shape;
      const shape = [rows - 1, ...rest];
      return [name, { shape, data: tensor.data.subarray(0, (tensor.data.length / rows) * (rows - 1)) }];
    }),
  );
}

describe('missing and misshapen tensors', () => {
  it.each([
    [
      { ...small, model_type: 'llama', tie_word_embeddings: false },
      ['lm_head.weight', 'model.layers.0.self_attn.k_proj.weight', 'model.layers.1.input_layernorm.weight'],
      ['model.embed_tokens.weight', 'model.layers.1.mlp.up_proj.weight', 'model.norm.weight'],
    ],
    [
      { ...small, model_type: 'mixtral', num_local_experts: 4 },
      ['model.layers.1.block_sparse_moe.experts.2.w1.weight', 'model.layers.0.block_sparse_moe.gate.weight'],
      ['model.layers.0.block_sparse_moe.experts.3.w2.weight'],
    ],
    [
      granite,
      ['model.layers.0.mamba.A_log', 'model.layers.1.block_sparse_moe.output_linear.weight'],
      [
        'model.layers.0.mamba.conv1d.weight',
        'model.layers.0.mamba.dt_bias',
        'model.layers.0.shared_mlp.input_linear.weight',
      ],
    ],
    [
      { model_type: 'mamba', vocab_size: 128, hidden_size: 32, num_hidden_layers: 2, state_size: 8 },
      ['backbone.layers.1.mixer.dt_proj.bias', 'backbone.layers.1.mixer.D', 'backbone.norm_f.weight'],
      ['backbone.layers.0.mixer.A_log', 'backbone.layers.0.mixer.x_proj.weight'],
    ],
  ])('are listed together: $model_type', async (config, removed, reshaped) => {
    const tensors = await randomTensors(config);
    for (const name of [...removed, ...reshaped]) expect(Object.keys(tensors)).toContain(name);
    const error = await loadError(config, damaged(tensors, removed, reshaped));
    expect(error.code).toBe('MISSING_TENSORS');
    for (const name of removed)
      expect(error.message).toContain(`${name} [${tensors[name]?.shape.join(', ')}] is missing`);
    for (const name of reshaped) {
      const [rows = 1, ...rest] = tensors[name]?.shape ?? [];
      const [expected, got] = [
        [rows, ...rest],
        [rows - 1, ...rest],
      ].map((shape) => `[${shape.join(', ')}]`);
      expect(error.message).toContain(`${name}: expected ${expected}, got ${got}`);
    }
    expect(error.message).toContain(`${removed.length + reshaped.length} tensors are missing or misshapen`);
  });

  it('lists everything when there is nothing', async () => {
    const config = { ...small, model_type: 'llama' };
    const error = await loadError(config, { 'other.weight': { shape: [1], data: new Float32Array(1) } });
    expect(error.code).toBe('MISSING_TENSORS');
    // the tied head is the embedding
    expect(error.message).toContain(`${Object.keys(await randomTensors(config)).length} tensors are missing`);
  });
});
