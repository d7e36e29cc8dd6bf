import { attention, decoder, moe, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readTransformer } from './read.js';

function readMixtral(config: Config) {
  const base = readTransformer(config, { kvHeads: 8, eps: 1e-5, theta: 1e6, maxPositions: 131072 });
  return {
    ...base,
    layers: base.layers.map(() => 'attention + moe'),
    window: config.int('sliding_window', 0),
    experts: config.experts(['num_local_experts', 'num_experts'], 8),
    topK: config.size('num_experts_per_tok', 2),
  };
}

/** Llama with a mixture of experts for the MLP. @see Jiang et al. 2024, arXiv:2401.04088 */
export const mixtral = defineModel('mixtral', readMixtral, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, {}, (w, i) => {
    const attentionNorm = norm(w, 'input_layernorm', dim, eps);
    const mix = attention(w.at('self_attn'), { ...config, rope: rotate });
    const moeNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const experts = moe(w.at('block_sparse_moe'), {
      ...config,
      rule: 'softmax_topk',
      renormalize: true,
      names: { gate: 'w1', up: 'w3', down: 'w2' },
      label: `layers.${i}`,
    });
    return (h) => {
      const mixed = mix(attentionNorm(h), { to: h }); // [t, dim]
      return experts(moeNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
