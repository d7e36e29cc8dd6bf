import { attention, decoder, gatedMlp, mamba2, moe, norm, rope } from '../nn/index.js';
import { turn } from '../turn.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readKinds, readMamba2, readTransformer } from './read.js';

function readGranite(config: Config) {
  const base = readTransformer(config);
  const kinds = readKinds(config) ?? base.layers.map(() => 'mamba' as const);
  const experts = config.experts('num_local_experts', 8);
  const mlp = experts > 0 ? 'moe + mlp' : 'mlp';
  return {
    ...base,
    layers: kinds.map((kind) => `${kind === 'attention' ? 'attention' : 'mamba2'} + ${mlp}`),
    kinds,
    rotates: config.string('position_embedding_type', 'nope') === 'rope',
    experts,
    topK: config.int('num_experts_per_tok', 2),
    sharedFf: config.size('shared_intermediate_size', 1024),
    attentionScale: config.number('attention_multiplier', 1),
    residualScale: config.number('residual_multiplier', 1),
    embeddingScale: config.number('embedding_multiplier', 1),
    logitsScale: 1 / config.number('logits_scaling', 1),
    mamba: readMamba2(config, base.dim, { heads: 128, states: 256, groups: 1 }),
  };
}

/** Granite 4: Mamba-2 or attention, then routed experts (or none) beside a shared MLP; each branch is scaled. @see IBM 2025, Granite 4.0 model cards */
export const granitemoehybrid = defineModel('granitemoehybrid', readGranite, (config, weights) => {
  const { dim, eps, activation, embeddingScale, logitsScale, residualScale: scale } = config;
  const rotate = config.rotates ? rope(weights.graph, config.rope, config.headDim) : undefined;
  return decoder(weights, config, { embeddingScale, logitsScale }, async (w, i) => {
    const mixerNorm = norm(w, 'input_layernorm', dim, eps);
    const mixer =
      config.kinds[i] === 'attention'
        ? attention(w.at('self_attn'), { ...config, rope: rotate, scale: config.attentionScale })
        : mamba2(w.at('mamba'), { dim, eps, ...config.mamba });
    await turn(); // the code of both halves, run for the first time, would hold the event loop for 4 ms
    const mlpNorm = norm(w, 'post_attention_layernorm', dim, eps);
    const routed =
      config.experts > 0
        ? moe(w.at('block_sparse_moe'), {
            ...config,
            rule: 'topk_softmax',
            renormalize: false,
            names: {
              router: 'router.layer',
              fusedInput: 'input_linear.weight',
              fusedOutput: 'output_linear.weight',
              layout: 'fused',
            },
            label: `layers.${i}`,
          })
        : undefined;
    const shared = gatedMlp(w.at('shared_mlp'), { dim, ff: config.sharedFf, activation, fused: true });
    return (h) => {
      const mixed = mixer(mixerNorm(h), { to: h, scale }); // [t, dim]
      const x = mlpNorm(mixed);
      return shared(x, { to: routed ? routed(x, { to: mixed, scale }) : mixed, scale }); // [t, dim]
    };
  });
});
