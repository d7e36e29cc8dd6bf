import { attention, decoder, gatedMlp, norm, rope } from '../nn/index.js';
import { defineModel } from './define.js';
import { readTransformer } from './read.js';

/** Pre-norm attention and SwiGLU. @see Touvron et al. 2023, arXiv:2307.09288 */
export const llama = defineModel('llama', readTransformer, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, {}, (w) => {
    const attentionNorm = norm(w, 'input_layernorm', dim, eps);
    const mix = attention(w.at('self_attn'), { ...config, rope: rotate });
    const mlpNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const mlp = gatedMlp(w.at('mlp'), config);
    return (h) => {
      const mixed = mix(attentionNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
