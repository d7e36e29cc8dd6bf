import { attention, embed, gatedMlp, head, norm, rope } from '../nn/index.js';
import type { Config, RopeConfig } from '../weights/config.js';
import { defineModel, type ModelShape } from './define.js';

interface LlamaConfig extends ModelShape {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ff: number;
  readonly eps: number;
  readonly rope: RopeConfig;
  readonly tied: boolean;
}

export function readLlama(config: Config): LlamaConfig {
  const dim = config.size('hidden_size');
  const heads = config.size('num_attention_heads');
  const headDim = config.size('head_dim', Math.floor(dim / heads));
  return {
    vocab: config.size('vocab_size'),
    dim,
    layers: new Array<string>(config.size('num_hidden_layers')).fill('attention + mlp'),
    maxPositions: config.size('max_position_embeddings', 2048),
    heads,
    kvHeads: config.size('num_key_value_heads', heads),
    headDim,
    ff: config.size('intermediate_size'),
    eps: config.number('rms_norm_eps', 1e-6),
    rope: config.rope(headDim),
    tied: config.bool('tie_word_embeddings', false),
  };
}

/** Pre-norm attention and SwiGLU. @see Touvron et al. 2023, arXiv:2307.09288 */
export const llama = defineModel('llama', readLlama, (config, weights) => {
  const { graph } = weights;
  const { vocab, dim, eps } = config;
  const model = weights.at('model');
  const rotate = rope(graph, config.rope, config.headDim);
  const embedding = embed(model, 'embed_tokens', vocab, dim);
  const layers = config.layers.map((_, i) => {
    const w = model.at('layers', i);
    return {
      attentionNorm: norm(w, 'input_layernorm', dim, eps),
      attention: attention(w.at('self_attn'), { ...config, rope: rotate }),
      mlpNorm: norm(w, 'post_attention_layernorm', dim, eps),
      mlp: gatedMlp(w.at('mlp'), { dim, ff: config.ff, activation: 'silu' }),
    };
  });
  const finalNorm = norm(model, 'norm', dim, eps);
  const logits = head(weights, { name: 'lm_head', tiedTo: 'model.embed_tokens', tied: config.tied, vocab, dim });

  return (ids) => {
    let h = graph.label('hidden.0', embedding(ids)); // [t, dim]
    layers.forEach((layer, i) => {
      h = layer.attention(layer.attentionNorm(h), { to: h });
      h = graph.label(`hidden.${i + 1}`, layer.mlp(layer.mlpNorm(h), { to: h }));
    });
    return logits(finalNorm(h)); // [rows, vocab]
  };
});
