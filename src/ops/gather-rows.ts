import { defineOp, f32, i32 } from './define.js';

/** `y[r, :] = x[rows[r], :]`: the tokens of the step whose logits are wanted. */
export const gatherRows = defineOp('gather_rows', {
  inputs: { x: f32('t', 'dim'), index: i32('rows') },
  attrs: {},
  outputs: { y: f32('rows', 'dim') },
});
