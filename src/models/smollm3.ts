import { attention, decoder, gatedMlp, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readTransformer, readWindows } from './read.js';

function readSmollm3(config: Config) {
  const base = readTransformer(config, { theta: 2e6, kvHeads: 4, tied: true, maxPositions: 32768 });
  const layers = base.layers.length;
  const interval = config.size('no_rope_layer_interval', 4);
  // despite the name, 1 means that the layer rotates
  const listed = config.perLayer('no_rope_layers', layers);
  const rotates = base.layers.map((_, i) => (listed ? listed[i] === 1 : (i + 1) % interval !== 0));
  const window = config.bool('use_sliding_window', false) ? config.int('sliding_window', 0) : 0;
  return { ...base, rotates, windows: readWindows(config, layers, window, (i) => !rotates[i]) };
}

/** Llama with a layer in four that does not rotate. @see Yang et al. 2025, arXiv:2501.18795 (NoPE layers) */
export const smollm3 = defineModel('smollm3', readSmollm3, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, {}, (w, i) => {
    const attentionNorm = norm(w, 'input_layernorm', dim, eps);
    const mix = attention(w.at('self_attn'), {
      ...config,
      rope: config.rotates[i] ? rotate : undefined,
      window: config.windows[i] ?? 0,
    });
    const mlpNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const mlp = gatedMlp(w.at('mlp'), config);
    return (h) => {
      const mixed = mix(attentionNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
