import type { Tensor } from '../graph/tensor.js';
import { causalConv1d, gatedRmsNorm, ssd } from '../ops/index.js';
import type { Weights } from '../weights/weights.js';
import { type Block, linear } from './layers.js';

export interface Mamba2Config {
  readonly dim: number;
  readonly heads: number;
  readonly headDim: number;
  /** Heads of a group share B and C. */
  readonly groups: number;
  readonly states: number;
  readonly kernel: number;
  /** Of the gated norm, which is per group. */
  readonly eps: number;
  /** Range of Δ after the softplus; (0, ∞) when absent. */
  readonly dtLimit?: readonly [min: number, max: number] | undefined;
}

/**
 * State space dual mixer: `out_proj(norm(ssd(silu(conv([x, B, C])), dt) · silu(z)))`, `[z, x, B, C, dt] = in_proj(u)`.
 *
 * @see Dao & Gu 2024, arXiv:2405.21060, figure 6
 */
export function mamba2(weights: Weights, config: Mamba2Config): Block {
  const { dim, heads, headDim, groups, states, kernel, eps } = config;
  const [dtMin, dtMax] = config.dtLimit ?? [0, Number.POSITIVE_INFINITY];
  const inner = heads * headDim;
  const shared = groups * states;
  const channels = inner + 2 * shared;
  const input = linear(weights, 'in_proj', dim, inner + channels + heads);
  const convWeight = weights.vector('conv1d.weight', [channels, kernel]);
  const convBias = weights.optionalVector('conv1d.bias', [channels]);
  const window = weights.state('conv', (kernel - 1) * channels, channels);
  const recurrence = {
    dt_bias: weights.vector('dt_bias', [heads]),
    a: weights.vector('A_log', [heads], { negExp: true }),
    d: weights.vector('D', [heads]),
    s: weights.state('scan', inner * states, inner + heads + shared),
    head_dim: headDim,
    groups,
    dt_min: dtMin,
    dt_max: dtMax,
  };
  const normWeight = weights.vector('norm.weight', [inner], { anyShape: true });
  const output = linear(weights, 'out_proj', inner, dim);

  return (u, residual) => {
    const { graph } = u;
    const [z, xbc, dt] = graph.split(input(u), [inner, channels, heads]) as [Tensor, Tensor, Tensor];
    const mixed = causalConv1d({ x: xbc, weight: convWeight, bias: convBias, window, activation: 'silu' }).y; // [t, channels]
    const [x, b, c] = graph.split(mixed, [inner, shared, shared]) as [Tensor, Tensor, Tensor];
    const y = ssd({ x, dt, b, c, ...recurrence }).y; // [t, heads·head_dim]
    return output(gatedRmsNorm({ x: y, z, weight: normWeight, width: inner / groups, eps }).y, residual);
  };
}
