import { defineOp, f32 } from './define.js';

/**
 * The `top_k` likeliest tokens of each row, likeliest first (ties to the lower id), as pairs of id and probability: `softmax(logits / temperature)` with the temperature of the row's options of
 * the step, 1 where that is 0 or there are none. Bias, penalties and filters do not count.
 *
 * Where there are fewer tokens, or logits are NaN or +∞, the id is -1 and the probability 0. Ids are exact in f32 up to 2^24.
 */
export const topProbabilities = defineOp('top_probabilities', {
  inputs: { logits: f32('rows', 'vocab') },
  attrs: { top_k: 'i32' },
  outputs: { y: f32('rows', '2*top_k') },
});
