import { decoder, mamba2 as mixer2, norm } from '../nn/index.js';
import type { Config } from '../weights/config.js';
import { defineModel } from './define.js';
import { checkDivides, readTied } from './read.js';

function readMamba2Model(config: Config) {
  const dim = config.size('hidden_size');
  const heads = config.size('num_heads', 128);
  const groups = config.size('n_groups', 8);
  checkDivides('n_groups', groups, heads, 'num_heads');
  return {
    vocab: config.size('vocab_size'),
    dim,
    layers: new Array<string>(config.layers()).fill('mamba2'),
    // nothing in it depends on a position
    maxPositions: config.positions(0x7fffffff),
    heads,
    headDim: config.size('head_dim', 64),
    groups,
    states: config.size('state_size', 128),
    kernel: config.size('conv_kernel', 4),
    dtLimit: config.range('time_step_limit'),
    eps: config.number('layer_norm_epsilon', 1e-5),
    tied: readTied(config, false),
  };
}

const names = { root: 'backbone', embedding: 'embeddings', norm: 'norm_f' };

/** A residual stack of state space dual mixers. @see Dao & Gu 2024, arXiv:2405.21060 */
export const mamba2 = defineModel('mamba2', readMamba2Model, (config, weights) =>
  decoder(weights, config, names, (w) => {
    const mixerNorm = norm(w, 'norm', config.dim, config.eps);
    const mixer = mixer2(w.at('mixer'), config);
    return (h) => mixer(mixerNorm(h), { to: h }); // [t, dim]
  }),
);
