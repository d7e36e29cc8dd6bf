import { attention, decoder, gatedMlp, moe, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readQwen } from './qwen2.js';

function readQwen3Moe(config: Config) {
  const base = readQwen(config, { maxPositions: 32768 });
  const experts = config.experts(['num_experts', 'num_local_experts'], 128);
  const step = config.size('decoder_sparse_step', 1);
  const dense = config.list('mlp_only_layers') ?? [];
  const layers = base.layers.map((_, i) => {
    const sparse = !dense.includes(i) && experts > 0 && (i + 1) % step === 0;
    return sparse ? 'attention + moe' : 'attention + mlp';
  });
  return {
    ...base,
    layers,
    experts,
    topK: config.size('num_experts_per_tok', 8),
    expertFf: config.size('moe_intermediate_size', 768),
    renormalize: config.bool('norm_topk_prob', false),
  };
}

/** Qwen3 with a mixture of experts in most layers. @see Yang et al. 2025, arXiv:2505.09388 */
export const qwen3Moe = defineModel('qwen3_moe', readQwen3Moe, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, {}, (w, i) => {
    const attentionNorm = norm(w, 'input_layernorm', dim, eps);
    const window = config.windows[i] ?? 0;
    const mix = attention(w.at('self_attn'), { ...config, rope: rotate, window, qkNormEps: eps });
    const mlpNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const mlp =
      config.layers[i] === 'attention + mlp'
        ? gatedMlp(w.at('mlp'), config)
        : moe(w.at('mlp'), { ...config, ff: config.expertFf, rule: 'softmax_topk', label: `layers.${i}` });
    return (h) => {
      const mixed = mix(attentionNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
