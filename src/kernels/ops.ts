import { mismatch } from '../errors.js';
import * as ops from '../ops/index.js';
import { shown } from './arrays.js';
import type { Free } from './axes.js';
import { type KernelSpec, kernel, type Prepared } from './kernel.js';
import { type HalfWeight, PackedWeight } from './weights.js';

const one: () => number = () => 1;
/** Element-wise ops do not mind how their elements are cut into rows. */
const oneRow: Free = [['rows', one]];

export interface Activations {
  /** Keeps the activations in f32 where the weight is quantised; else they are rounded to int8 a group of 32. */
  exact?: boolean;
}

function readExact(args: Readonly<Record<string, unknown>>, { name, options }: Prepared): void {
  const exact = args.exact ?? false;
  if (typeof exact !== 'boolean') throw mismatch('INVALID_ARGUMENT', `${name}: exact`, 'a boolean', shown(exact));
  options.exact = exact;
}

const linearSpec = { defaults: { scale: 1, exact: false }, prepare: readExact };

const withWeight =
  (expected: string, fits: (weight: unknown) => boolean): NonNullable<KernelSpec<object>['prepare']> =>
  (args, call) => {
    readExact(args, call);
    if (!fits(args.weight)) throw mismatch('INVALID_ARGUMENT', `${call.name}: weight`, expected, shown(args.weight));
  };
const isPacked = (weight: unknown, format: string): boolean =>
  weight instanceof PackedWeight && weight.format === format;

/** Rows of a table by id: `y[t, :] = scale · weight[ids[t], :]`. */
export const embedding = kernel(ops.embedding, { defaults: { scale: 1 } });

/** `y = scale · (x · weightᵀ + bias) + residual` with a weight of any kind. */
export const linear = kernel(ops.linear, linearSpec);

/** `linear` with an f32, f16 or bf16 weight, multiplied as it is. */
export const matmul = kernel<
  typeof ops.linear.declaration.inputs,
  typeof ops.linear.declaration.attrs,
  typeof ops.linear.declaration.outputs,
  typeof linearSpec.defaults,
  { weight: Float32Array | HalfWeight }
>(
  ops.linear,
  { ...linearSpec, prepare: withWeight('a Float32Array or { dtype, data }', (w) => !(w instanceof PackedWeight)) },
  'matmul',
);

/** `linear` with the weight of `packInt8`. */
export const int8Matmul = kernel<
  typeof ops.linear.declaration.inputs,
  typeof ops.linear.declaration.attrs,
  typeof ops.linear.declaration.outputs,
  typeof linearSpec.defaults,
  { weight: PackedWeight<'int8'> }
>(
  ops.linear,
  { ...linearSpec, prepare: withWeight('the result of packInt8', (w) => isPacked(w, 'int8')) },
  'int8Matmul',
);

/** `linear` with the weight of `packInt4`. */
export const int4Matmul = kernel<
  typeof ops.linear.declaration.inputs,
  typeof ops.linear.declaration.attrs,
  typeof ops.linear.declaration.outputs,
  typeof linearSpec.defaults,
  { weight: PackedWeight<'int4'> }
>(
  ops.linear,
  { ...linearSpec, prepare: withWeight('the result of packInt4', (w) => isPacked(w, 'int4')) },
  'int4Matmul',
);

/** Root-mean-square norm of groups of `width` elements, all of `weight`'s length unless given. */
export const rmsNorm = kernel(ops.rmsNorm, { defaults: { width: undefined }, free: [['groups', one]] });

/** Norm of `x · silu(z)`, per group of `width` elements, the whole row unless given. */
export const gatedRmsNorm = kernel(ops.gatedRmsNorm, { defaults: { width: undefined }, free: [['groups', one]] });

/** `y = a + scale · b`. */
export const add = kernel(ops.add, { defaults: { scale: 1 }, free: oneRow });

/** `y = act(gate) · up`, or `act(gate)`. */
export const actMul = kernel(ops.actMul, { defaults: {}, free: oneRow });

/** Rotary position embedding. */
export const rope = kernel(ops.rope, { defaults: { interleaved: false, scale: 1, head_dim: undefined } });

/** Depthwise causal convolution; `window` in and out: the last kernel - 1 inputs, oldest first. */
export const causalConv1d = kernel(ops.causalConv1d, { defaults: { activation: 'none' } });

/** Mamba-1 recurrence; `h` in and out: [channels, states]. */
export const selectiveScan = kernel(ops.selectiveScan, { defaults: {} });

/** Mamba-2 recurrence; `s` in and out: [heads, head_dim, states]. */
export const ssd = kernel(ops.ssd, {
  defaults: { head_dim: undefined, groups: 1, dt_min: 0, dt_max: Number.POSITIVE_INFINITY },
});

/** The `topK` experts of each token and their weights. */
export const router = kernel(ops.router, { defaults: { renormalize: false, scale: 1 } });

/** Mixture of expert MLPs; `gate`, `up` and `down` are stacks [experts, …]. */
export const moe = kernel<
  typeof ops.moe.declaration.inputs,
  typeof ops.moe.declaration.attrs,
  typeof ops.moe.declaration.outputs,
  { activation: 'silu' },
  Activations
>(ops.moe, { defaults: { activation: 'silu' }, prepare: readExact, keys: ['exact'] });

/** `y[r, :] = x[index[r], :]`. */
export const gatherRows = kernel(ops.gatherRows, { defaults: {} });
