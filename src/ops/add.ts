import { defineOp, f32 } from './define.js';

/** `y = a + scale · b`. */
export const add = defineOp('add', {
  inputs: { a: f32('rows', 'dim'), b: f32('rows', 'dim') },
  attrs: { scale: 'f32' },
  outputs: { y: f32('rows', 'dim') },
});
