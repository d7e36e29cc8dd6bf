import { mismatch } from '../errors.js';
import { attention, type Block, decoder, mamba2, mlp, moe, norm } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import type { Weights } from '../weights/weights.js';
import { defineModel } from './define.js';
import { checkDivides, readActivation, readKinds, readMamba2, readTied } from './read.js';

type NemotronConfig = ReturnType<typeof readNemotron>;

function readNemotron(config: Config) {
  const dim = config.size('hidden_size');
  const heads = config.size('num_attention_heads');
  const kvHeads = config.size('num_key_value_heads', heads);
  checkDivides('num_key_value_heads', kvHeads, heads, 'num_attention_heads');
  const kinds = readKinds(config);
  if (!kinds)
    throw mismatch(
      'INVALID_FILE',
      'config: hybrid_override_pattern or layers_block_type',
      'kinds of the layers',
      'nothing',
    );
  const groups = config.int('n_group', 1);
  if (kinds.includes('moe') && config.int('topk_group', groups) < groups)
    throw mismatch(
      'UNSUPPORTED_FORMAT',
      'config: topk_group',
      `all ${groups} groups of experts`,
      config.value('topk_group'),
    );
  return {
    vocab: config.size('vocab_size'),
    dim,
    layers: kinds.map((kind) => (kind === 'mamba' ? 'mamba2' : kind)),
    maxPositions: config.positions(4096),
    kinds,
    heads,
    kvHeads,
    headDim: config.size(['head_dim', 'attention_head_dim'], 128),
    ff: config.size('intermediate_size'),
    activation: readActivation(config, 'mlp_hidden_act', 'relu2'),
    eps: config.number(['layer_norm_epsilon', 'rms_norm_eps'], 1e-5),
    mamba: readMamba2(config, dim, { heads: 128, states: 128, groups: 8 }),
    experts: config.experts('n_routed_experts', 0),
    topK: config.int('num_experts_per_tok', 2),
    expertFf: config.int('moe_intermediate_size', 0),
    sharedFf: config.int('moe_shared_expert_intermediate_size', 0) * config.int('n_shared_experts', 1),
    latent: config.value('moe_latent_size') === undefined ? undefined : config.size('moe_latent_size'),
    renormalize: config.bool('norm_topk_prob', true),
    routedScale: config.number('routed_scaling_factor', 1),
    tied: readTied(config, false),
  };
}

/** Routed and shared experts, both without a gate. */
function experts(w: Weights, config: NemotronConfig, i: number): Block {
  const { dim, activation } = config;
  const routed = moe(w, {
    ...config,
    ff: config.expertFf,
    rule: 'sigmoid',
    scale: config.routedScale,
    gated: false,
    label: `layers.${i}`,
  });
  const shared = mlp(w.at('shared_experts'), { dim, ff: config.sharedFf, activation });
  return (x, { to, scale = 1 }) => shared(x, { to: routed(x, { to, scale }), scale });
}

const names = { root: 'backbone', embedding: 'embeddings', norm: 'norm_f' };

/** One block a layer: Mamba-2, NoPE attention, an MLP of squared ReLU, or experts. @see NVIDIA 2025, arXiv:2504.03624 */
export const nemotronH = defineModel('nemotron_h', readNemotron, (config, weights) => {
  const { dim, eps } = config;
  const blocks = {
    mamba: (w: Weights) => mamba2(w, { dim, eps, ...config.mamba }),
    attention: (w: Weights) => attention(w, config),
    mlp: (w: Weights) => mlp(w, config),
    moe: (w: Weights, i: number) => experts(w, config, i),
  };
  return decoder(weights, config, names, (w, i) => {
    const blockNorm = norm(w, 'norm', dim, eps);
    const block = blocks[config.kinds[i] as keyof typeof blocks](w.at('mixer'), i);
    return (h) => block(blockNorm(h), { to: h }); // [t, dim]
  });
});
