import { defineOp, f32, i32 } from './define.js';

/**
 * One token a row from its logits, by the row's options of the step: logit bias, then repetition, presence and frequency penalties over the row's
 * history, then greedy (temperature 0, ties to the lower id) or temperature, top-k, top-p and min-p, and a choice by one uniform number.
 *
 * Where no token can be chosen (NaN or +∞ among the logits, or every token forbidden) the id is -1.
 *
 * The number is Philox4x32-10 keyed by (seed, position): the same in any batch, thread count and step.
 *
 * @see Salmon et al. 2011 (Philox); Holtzman et al. 2019, arXiv:1904.09751 (top-p); Keskar et al. 2019, arXiv:1909.05858 (repetition penalty)
 */
export const sample = defineOp('sample', {
  inputs: { logits: f32('rows', 'vocab') },
  attrs: {},
  outputs: { ids: i32('rows') },
});
