import { decoder, mamba1, norm } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { readDtRank, readTied } from './read.js';

function readMamba(config: Config) {
  const dim = config.size(['hidden_size', 'd_model']);
  const expand = config.number('expand', 2);
  return {
    vocab: config.size('vocab_size'),
    dim,
    layers: new Array<string>(config.layers(['num_hidden_layers', 'n_layer'])).fill('mamba'),
    // nothing in it depends on a position
    maxPositions: config.positions(0x7fffffff),
    channels: config.size('intermediate_size', Math.floor(expand * dim)),
    states: config.size('state_size', 16),
    kernel: config.size('conv_kernel', 4),
    dtRank: readDtRank(config, 'time_step_rank', dim),
    eps: config.number('layer_norm_epsilon', 1e-5),
    tied: readTied(config, true),
  };
}

const names = { root: 'backbone', embedding: 'embeddings', norm: 'norm_f' };

/** A residual stack of selective state space mixers. @see Gu & Dao 2023, arXiv:2312.00752 */
export const mamba = defineModel('mamba', readMamba, (config, weights) =>
  decoder(weights, config, names, (w) => {
    const mixerNorm = norm(w, 'norm', config.dim, config.eps);
    const mixer = mamba1(w.at('mixer'), config);
    return (h) => mixer(mixerNorm(h), { to: h }); // [t, dim]
  }),
);
