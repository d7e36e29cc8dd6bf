import type { Tensor } from '../graph/tensor.js';
import { causalConv1d, linear as linearOp, selectiveScan } from '../ops/index.js';
import type { Weights } from '../weights/weights.js';
import { type Block, linear, norm } from './layers.js';

export interface Mamba1Config {
  readonly dim: number;
  /** Width inside the mixer. */
  readonly channels: number;
  readonly states: number;
  readonly kernel: number;
  readonly dtRank: number;
  /** RMS norms with weights on dt, B and C (Jamba). */
  readonly innerNormEps?: number;
}

/**
 * Selective state space mixer: `out_proj(scan(silu(conv(x))) · silu(z))`, `[x, z] = in_proj(u)`.
 *
 * @see Gu & Dao 2023, arXiv:2312.00752, figure 3
 */
export function mamba1(weights: Weights, config: Mamba1Config): Block {
  const { dim, channels, states, kernel, dtRank, innerNormEps: eps } = config;
  const input = linear(weights, 'in_proj', dim, 2 * channels);
  const convWeight = weights.vector('conv1d.weight', [channels, kernel]);
  const convBias = weights.optionalVector('conv1d.bias', [channels]);
  const parameters = linear(weights, 'x_proj', channels, dtRank + 2 * states);
  const identity = (x: Tensor): Tensor => x;
  const normOf = (name: string, width: number) => (eps === undefined ? identity : norm(weights, name, width, eps));
  const [dtNorm, bNorm, cNorm] = [
    normOf('dt_layernorm', dtRank),
    normOf('b_layernorm', states),
    normOf('c_layernorm', states),
  ];
  const dtWeight = weights.matrix('dt_proj.weight', [channels, dtRank]);
  const scan = {
    dt_bias: weights.vector('dt_proj.bias', [channels]),
    a: weights.vector('A_log', [channels, states], { negExp: true }),
    d: weights.vector('D', [channels]),
    h: weights.state('scan', channels * states, 2 * channels + states),
  };
  const window = weights.state('conv', (kernel - 1) * channels, channels);
  const output = linear(weights, 'out_proj', channels, dim);

  return (u, residual) => {
    const { graph } = u;
    const [x0, z] = graph.split(input(u), [channels, channels]) as [Tensor, Tensor];
    const x = causalConv1d({ x: x0, weight: convWeight, bias: convBias, window, activation: 'silu' }).y; // [t, channels]
    const [dtLow, b, c] = graph.split(parameters(x), [dtRank, states, states]) as [Tensor, Tensor, Tensor];
    // the bias of dt_proj is added in the scan, in f32
    const dt = linearOp({ x: dtNorm(dtLow), weight: dtWeight, scale: 1, exact: false }).y; // [t, channels]
    const y = selectiveScan({ x, dt, b: bNorm(b), c: cNorm(c), z, ...scan }).y; // [t, channels]
    return output(y, residual);
  };
}
