import { attention, decoder, gatedMlp, mamba2, norm, rope } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readKinds, readMamba2, readTransformer } from './read.js';

function readBamba(config: Config) {
  const base = readTransformer(config, { kvHeads: 8, eps: 1e-5, partialRotary: 0.5, maxPositions: 262144 });
  const kinds = readKinds(config) ?? base.layers.map(() => 'mamba' as const);
  return {
    ...base,
    layers: kinds.map((kind) => (kind === 'attention' ? 'attention + mlp' : 'mamba2 + mlp')),
    kinds,
    mamba: readMamba2(config, base.dim, { heads: 128, states: 256, groups: 1 }),
  };
}

/** Mamba-2 with a few attention layers that rotate half of each head. @see IBM Research et al. 2024, "Bamba: inference-efficient hybrid Mamba2 model" */
export const bamba = defineModel('bamba', readBamba, (config, weights) => {
  const { dim, eps } = config;
  const rotate = rope(weights.graph, config.rope, config.headDim);
  return decoder(weights, config, { norm: 'final_layernorm' }, (w, i) => {
    const mixerNorm = norm(w, 'input_layernorm', dim, eps);
    const mixer =
      config.kinds[i] === 'attention'
        ? attention(w.at('self_attn'), { ...config, rope: rotate })
        : mamba2(w.at('mamba'), { dim, eps, ...config.mamba });
    const mlpNorm = norm(w, 'pre_ff_layernorm', dim, eps);
    const mlp = gatedMlp(w.at('feed_forward'), config);
    return (h) => {
      const mixed = mixer(mixerNorm(h), { to: h }); // [t, dim]
      return mlp(mlpNorm(mixed), { to: mixed }); // [t, dim]
    };
  });
});
