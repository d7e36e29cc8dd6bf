import { attention, decoder, gatedMlp, mamba1, moe, norm } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readDtRank, readKinds, readTransformer } from './read.js';

function readJamba(config: Config) {
  const base = readTransformer(config, { kvHeads: 8, maxPositions: 262144 });
  const experts = config.experts('num_experts', 16);
  const attentionPeriod = config.size('attn_layer_period', 8);
  const attentionOffset = config.int('attn_layer_offset', 4);
  const expertPeriod = config.size('expert_layer_period', 2);
  const expertOffset = config.int('expert_layer_offset', 1);
  const kinds =
    readKinds(config) ?? base.layers.map((_, i) => (i % attentionPeriod === attentionOffset ? 'attention' : 'mamba'));
  const sparse = base.layers.map((_, i) => experts > 1 && i % expertPeriod === expertOffset);
  return {
    ...base,
    layers: base.layers.map((_, i) => `${kinds[i]} + ${sparse[i] ? 'moe' : 'mlp'}`),
    kinds,
    sparse,
    experts,
    topK: config.size('num_experts_per_tok', 2),
    channels: Math.floor(config.number('mamba_expand', 2) * base.dim),
    states: config.size('mamba_d_state', 16),
    kernel: config.size('mamba_d_conv', 4),
    dtRank: readDtRank(config, 'mamba_dt_rank', base.dim),
  };
}

/** Mamba-1 with norms on dt, B and C, a few NoPE attention layers, experts in every other layer. @see Lieber et al. 2024, arXiv:2403.19887 */
export const jamba = defineModel('jamba', readJamba, (config, weights) => {
  const { dim, eps } = config;
  return decoder(weights, config, { norm: 'final_layernorm' }, (w, i) => {
    const mixerNorm = norm(w, 'input_layernorm', dim, eps);
    const mixer =
      config.kinds[i] === 'attention'
        ? attention(w.at('self_attn'), { ...config, rope: undefined })
        : mamba1(w.at('mamba'), { ...config, innerNormEps: eps });
    const mlpNorm = norm(w, 'pre_ff_layernorm', dim, eps);
    const mlp = config.sparse[i]
      ? moe(w.at('feed_forward'), {
          ...config,
          rule: 'softmax_topk',
          renormalize: false,
          names: { router: 'router' },
          label: `layers.${i}`,
        })
      : gatedMlp(w.at('feed_forward'), config);
    return (h) => {
      const mixed = mixer(mixerNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
