import { attention, decoder, gatedMlp, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readTransformer, readWindows, type TransformerDefaults } from './read.js';

/** Llama's keys and Qwen's: the upper layers slide where `use_sliding_window` says so. */
export function readQwen(config: Config, defaults: TransformerDefaults = { maxPositions: 32768 }) {
  const base = readTransformer(config, defaults);
  const window = config.bool('use_sliding_window', false) ? config.int('sliding_window', 4096) : 0;
  const first = config.int('max_window_layers', 28);
  return { ...base, windows: readWindows(config, base.layers.length, window, (i) => i >= first) };
}

/** Llama with biases on q, k and v. @see Yang et al. 2024, arXiv:2407.10671 */
export const qwen2 = defineModel('qwen2', readQwen, (config, weights) => {
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
