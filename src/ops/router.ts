import { defineOp, f32, i32, optional } from './define.js';

export const routerRules = ['softmax_topk', 'topk_softmax', 'sigmoid'] as const;
export type RouterRule = (typeof routerRules)[number];

/**
 * Choice of `top_k` experts a token and their weights, in falling order of score, ties to the lower index.
 *
 * `softmax_topk`: softmax over all, then the best (Mixtral, Qwen, Jamba); `topk_softmax`: the best logits, softmax over those
 * (Granite); `sigmoid`: scores are sigmoids, chosen with `bias` added but weighted without it (Nemotron, DeepSeek-V3). `renormalize` divides the weights by
 * their sum; `scale` multiplies them.
 */
export const router = defineOp('router', {
  inputs: { logits: f32('t', 'experts'), bias: optional(f32('experts')) },
  attrs: { top_k: 'i32', rule: routerRules, renormalize: 'bool', scale: 'f32' },
  outputs: { ids: i32('t', 'top_k'), weights: f32('t', 'top_k') },
});
