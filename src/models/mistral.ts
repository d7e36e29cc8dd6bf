import { attention, decoder, gatedMlp, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readTransformer, readWindows } from './read.js';

function readMistral(config: Config) {
  const base = readTransformer(config, { kvHeads: 8, maxPositions: 131072 });
  // null since v0.2; configs without the key are those of v0.1
  const window = config.raw.sliding_window === null ? 0 : config.int('sliding_window', 4096);
  return { ...base, windows: readWindows(config, base.layers.length, window, () => true) };
}

/** Llama with a sliding window. @see Jiang et al. 2023, arXiv:2310.06825 */
export const mistral = defineModel('mistral', readMistral, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, {}, (w, i) => {
    const attentionNorm = norm(w, 'input_layernorm', dim, eps);
    const mix = attention(w.at('self_attn'), { ...config, rope: rotate, window: config.windows[i] ?? 0 });
    const mlpNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const mlp = gatedMlp(w.at('mlp'), config);
    return (h) => {
      const mixed = mix(attentionNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
