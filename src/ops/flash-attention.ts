import { defineOp, f32, optional, state } from './define.js';

/** What the elements of a cache are kept as; int8 rows have one f32 scale a head. */
export const kvTypes = ['f32', 'f16', 'bf16', 'int8'] as const;
export type KvType = (typeof kvTypes)[number];

/**
 * Causal attention of this step's tokens over a paged cache: `y = softmax(scale · q·kᵀ + mask) · v`, one online softmax a row.
 *
 * First moves the accepted rows of the last step into place, then writes this step's `k` and `v` after them, then attends: a token sees the committed
 * rows, its ancestors in the step, and itself; with `window` > 0 only keys less than `window` positions back. `softcap` > 0 applies `c·tanh(s/c)`
 * before the mask; `sinks` adds one logit a head to the denominator; `alibi` adds `slope · (j - i)` to the score of a query at position i and a key at position j, after
 * `softcap`. Keys are visited in blocks at absolute positions: a row's bits
 * do not depend on how the prompt was cut or on what else is in the step. The cache keeps keys and values as f32, f16, bf16 or int8 with one scale a row:
 * rounded once, when they are written, and widened to f32 where they are read; scores, softmax and sums are f32 whatever the cache.
 *
 * @see Press et al. 2022, arXiv:2108.12409 (alibi)
 * @see Dao 2023, arXiv:2307.08691; Kwon et al. 2023, arXiv:2309.06180 (paged cache)
 */
export const flashAttention = defineOp('flash_attention', {
  inputs: {
    q: f32('t', 'heads*head_dim'),
    k: f32('t', 'kv_heads*head_dim'),
    v: f32('t', 'kv_heads*head_dim'),
    sinks: optional(f32('heads')),
    alibi: optional(f32('heads')),
    cache: state('kv'),
  },
  attrs: { head_dim: 'i32', scale: 'f32', window: 'i32', softcap: 'f32' },
  outputs: { y: f32('t', 'heads*head_dim') },
});
