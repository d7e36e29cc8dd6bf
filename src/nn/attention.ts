import type { Tensor } from '../graph/tensor.js';
import { flashAttention, linear as linearOp } from '../ops/index.js';
import type { Weights } from '../weights/weights.js';
import { linear, norm } from './layers.js';

export interface AttentionConfig {
  readonly dim: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Rotation of q and k; none for NoPE layers. */
  readonly rope?: ((x: Tensor) => Tensor) | undefined;
  /** Only keys less than this many positions back; 0 for all. */
  readonly window?: number;
  /** Of the scores; `headDim^-0.5` when absent. */
  readonly scale?: number;
  /** RMS norm of each head of q and k before the rotation. */
  readonly qkNormEps?: number;
}

/** Grouped-query attention: `o_proj(attention(rope(q), rope(k), v))`, added to `residual`. @see Ainslie et al. 2023, arXiv:2305.13245 */
export function attention(weights: Weights, config: AttentionConfig): (x: Tensor, residual: { to: Tensor; scale?: number }) => Tensor {
  const { dim, heads, kvHeads, headDim, rope } = config;
  const [qWidth, kvWidth] = [heads * headDim, kvHeads * headDim];
  const names = ['q_proj', 'k_proj', 'v_proj'] as const;
  const widths = [qWidth, kvWidth, kvWidth];
  const qkv = weights.stack('qkv_proj.weight', [qWidth + 2 * kvWidth, dim], names.map((name, i) => ({ name: `${name}.weight`, shape: [widths[i] as number, dim] })));
  const bias = weights.has('q_proj.bias')
    ? weights.concat('qkv_proj.bias', names.map((name, i) => ({ name: `${name}.bias`, shape: [widths[i] as number] })))
    : undefined;
  const [qNorm, kNorm] =
    config.qkNormEps === undefined
      ? [undefined, undefined]
      : [norm(weights, 'q_norm', headDim, config.qkNormEps), norm(weights, 'k_norm', headDim, config.qkNormEps)];
  const output = linear(weights, 'o_proj', qWidth, dim);
  const cache = weights.state('kv', 2 * kvWidth, 1);

  return (x, residual) => {
    const all = linearOp({ x, weight: qkv, bias, scale: 1, exact: false }).y; // [t, (heads + 2·kv_heads)·head_dim]
    let [q, k, v] = x.graph.split(all, widths) as [Tensor, Tensor, Tensor];
    if (qNorm && kNorm) [q, k] = [qNorm(q), kNorm(k)];
    if (rope) [q, k] = [rope(q), rope(k)];
    const y = flashAttention({
      q,
      k,
      v,
      cache,
      head_dim: headDim,
      scale: config.scale ?? headDim ** -0.5,
      window: config.window ?? 0,
      softcap: 0,
    }).y; // [t, heads·head_dim]
    return output(y, residual);
  };
}
