import { defineOp, f32, i32, matrix } from './define.js';

/**
 * Row lookup: `y[t, :] = scale · weight[ids[t], :]`, decoded to f32 from whatever the table is stored in.
 *
 * @throws TOKEN_OUT_OF_RANGE when an id is not below `vocab`.
 */
export const embedding = defineOp('embedding', {
  inputs: { ids: i32('t'), weight: matrix('vocab', 'dim') },
  attrs: { scale: 'f32' },
  outputs: { y: f32('t', 'dim') },
});
