import { attention, decoder, gatedMlp, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readQwen } from './qwen2.js';

const readQwen3 = (config: Config) => readQwen(config, { headDim: 128, maxPositions: 32768 });

/** Llama with a norm on each head of q and k. @see Yang et al. 2025, arXiv:2505.09388 */
export const qwen3 = defineModel('qwen3', readQwen3, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, {}, (w, i) => {
    const attentionNorm = norm(w, 'input_layernorm', dim, eps);
    const window = config.windows[i] ?? 0;
    const mix = attention(w.at('self_attn'), { ...config, rope: rotate, window, qkNormEps: eps });
    const mlpNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const mlp = gatedMlp(w.at('mlp'), config);
    return (h) => {
      const mixed = mix(attentionNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
