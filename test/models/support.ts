import { findModel } from '../../src/models/index.js';
import type { NamedTensors } from '../../src/weights/safetensors.js';

/** Keys that the small configs of these tests share. */
export const small = {
  vocab_size: 128,
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  intermediate_size: 48,
  max_position_embeddings: 256,
  rms_norm_eps: 1e-6,
};

export const granite = {
  ...small,
  model_type: 'granitemoehybrid',
  layer_types: ['mamba', 'attention'],
  num_local_experts: 4,
  num_experts_per_tok: 2,
  shared_intermediate_size: 40,
  mamba_n_heads: 8,
  mamba_d_head: 8,
  mamba_d_state: 8,
  mamba_n_groups: 1,
  tie_word_embeddings: false,
};

export const ids: Int32Array = Int32Array.from({ length: 21 }, (_, i) => (i * 37 + 5) % small.vocab_size);

/** Numbers in -1..1 from a seed. */
export function randomNumbers(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return state / 2 ** 31;
  };
}

/** Small random values for every tensor that the architecture of the config names. */
export async function randomTensors(config: { readonly model_type: string }, seed = 1): Promise<NamedTensors> {
  const random = randomNumbers(seed);
  const tensors = await findModel(config.model_type).tensors({ ...config });
  const entries = tensors.map(({ name, shape }) => {
    const length = shape.reduce((product, n) => product * n, 1);
    const base = name.includes('norm') ? 1 : 0;
    return [name, { shape, data: Float32Array.from({ length }, () => base + random() / 4) }];
  });
  return Object.fromEntries(entries);
}

/** Tensors under other names. */
export function renamed(tensors: NamedTensors, rename: (name: string) => string): NamedTensors {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [rename(name), tensor]));
}

/** Tensors one after the other along their first axis, or as one more axis in front. */
export function joined(tensors: readonly NamedTensors[string][], how: 'concat' | 'stack'): NamedTensors[string] {
  const [first] = tensors;
  if (!first) throw new Error('nothing to join');
  const data = new Float32Array(tensors.reduce((sum, tensor) => sum + tensor.data.length, 0));
  let at = 0;
  for (const tensor of tensors) {
    data.set(tensor.data, at);
    at += tensor.data.length;
  }
  const [outer = 1, ...rest] = first.shape;
  return { shape: how === 'stack' ? [tensors.length, ...first.shape] : [outer * tensors.length, ...rest], data };
}
