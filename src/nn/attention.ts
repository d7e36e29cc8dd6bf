import type { Tensor } from '../graph/tensor.js';
import { flashAttention, linear as linearOp } from '../ops/index.js';
import type { Weights } from '../weights/weights.js';
import { type Block, linear, norm } from './layers.js';

export interface AttentionConfig {
  readonly dim: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Rotation of the heads of q and k; none for NoPE layers. */
  readonly rope?: ((x: Tensor) => Tensor) | undefined;
  /** Only keys less than this many positions back; 0 for all. */
  readonly window?: number;
  /** Of the scores; `headDim^-0.5` when absent. */
  readonly scale?: number;
  /** RMS norm of each head of q and k before the rotation. */
  readonly qkNormEps?: number;
}

/** Grouped-query attention: `o_proj(attention(rope(q), rope(k), v))`, added to the residual. @see Ainslie et al. 2023, arXiv:2305.13245 */
export function attention(weights: Weights, config: AttentionConfig): Block {
  const { dim, heads, kvHeads, headDim } = config;
  const [qWidth, kvWidth] = [heads * headDim, kvHeads * headDim];
  const pieces = (['q_proj', 'k_proj', 'v_proj'] as const).map((name) => ({
    name,
    width: name === 'q_proj' ? qWidth : kvWidth,
  }));
  const qkv = weights.stack(
    'qkv_proj.weight',
    [qWidth + 2 * kvWidth, dim],
    pieces.map(({ name, width }) => ({ name: `${name}.weight`, shape: [width, dim] })),
  );
  const bias = weights.has('q_proj.bias')
    ? weights.concat(
        'qkv_proj.bias',
        pieces.map(({ name, width }) => ({ name: `${name}.bias`, shape: [width] })),
      )
    : undefined;
  const prepare = queriesAndKeys(weights, config);
  const output = linear(weights, 'o_proj', qWidth, dim);
  const cache = weights.state('kv', 2 * kvWidth, 1);

  return (x, residual) => {
    const all = linearOp({ x, weight: qkv, bias, scale: 1, exact: false }).y; // [t, (heads + 2·kv_heads)·head_dim]
    const [qk, v] = x.graph.split(all, [qWidth + kvWidth, kvWidth]) as [Tensor, Tensor];
    const [q, k] = prepare(qk);
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

/** Norms and rotation of the heads of q and k, which lie side by side. */
function queriesAndKeys(weights: Weights, config: AttentionConfig): (qk: Tensor) => [q: Tensor, k: Tensor] {
  const { headDim, qkNormEps, rope = (x) => x } = config;
  const widths = [config.heads * headDim, config.kvHeads * headDim];
  const split = (qk: Tensor) => qk.graph.split(qk, widths) as [Tensor, Tensor];
  if (qkNormEps === undefined) return (qk) => split(rope(qk)); // one rotation for both
  const qNorm = norm(weights, 'q_norm', headDim, qkNormEps);
  const kNorm = norm(weights, 'k_norm', headDim, qkNormEps);
  return (qk) => {
    const [q, k] = split(qk);
    return [rope(qNorm(q)), rope(kNorm(k))];
  };
}
