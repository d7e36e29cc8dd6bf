import { CrosscurrentError, mismatch } from '../errors.js';
import type { Dim, Tensor } from '../graph/tensor.js';

/**
 * Axis names are a closed vocabulary. `rows` is any leading axis, `in`/`out` are the sides of a matrix, `kernel` the taps of a
 * convolution, `half` the number of rotary frequencies, `dt_rank` free for projections.
 */
export type Axis =
  | 't'
  | 'rows'
  | 'heads'
  | 'kv_heads'
  | 'head_dim'
  | 'dim'
  | 'width'
  | 'ff'
  | 'channels'
  | 'kernel'
  | 'states'
  | 'groups'
  | 'experts'
  | 'top_k'
  | 'vocab'
  | 'in'
  | 'out'
  | 'half';

/** One axis, or the product of two (`heads*head_dim`), of which at most one is unknown when the shape is checked. */
export type AxisExpr = Axis | `${Axis}*${Axis}` | `2*${Axis}`;

export type OperandKind = 'f32' | 'i32' | 'matrix' | 'kv' | 'conv' | 'scan';

export interface Operand<Optional extends boolean = boolean, Kind extends OperandKind = OperandKind> {
  /** `matrix`: a weight of any dtype, packed by the backend; `kv`, `conv`, `scan`: a state. */
  readonly kind: Kind;
  readonly axes: readonly AxisExpr[];
  readonly optional: Optional;
}

const operand =
  <Kind extends OperandKind>(kind: Kind) =>
  (...axes: AxisExpr[]): Operand<false, Kind> => ({ kind, axes, optional: false });

export const f32: (...axes: AxisExpr[]) => Operand<false, 'f32'> = operand('f32');
export const i32: (...axes: AxisExpr[]) => Operand<false, 'i32'> = operand('i32');
export const matrix: (...axes: AxisExpr[]) => Operand<false, 'matrix'> = operand('matrix');
export const state = <Kind extends 'kv' | 'conv' | 'scan'>(kind: Kind): Operand<false, Kind> => ({
  kind,
  axes: [],
  optional: false,
});
export const optional = <Kind extends OperandKind>(inner: Operand<boolean, Kind>): Operand<true, Kind> => ({
  ...inner,
  optional: true,
});

/** An attribute: a number, an integer (an axis name makes it known to the shape check), a flag, or one of some names. */
export type AttrType = 'f32' | 'i32' | 'bool' | readonly string[];

export type AttrValue<T extends AttrType> = T extends readonly (infer Name)[]
  ? Name
  : T extends 'bool'
    ? boolean
    : number;

export type Operands = Record<string, Operand>;
export type Attrs = Record<string, AttrType>;

/** Names of all axes of an op, attributes that are axes left out, in the order of their numbers in native code. */
export function axesOf({ inputs, outputs, attrs }: OpDeclaration): string[] {
  const all = [...Object.values(inputs), ...Object.values(outputs)].flatMap((operand) =>
    operand.axes.flatMap((axis) => axis.split('*')),
  );
  return [...new Set(all)].filter((axis) => axis !== '2' && !(axis in attrs));
}

export type OpArgs<I extends Operands, A extends Attrs> = {
  [K in keyof I as I[K] extends Operand<true> ? never : K]: Tensor;
} & { [K in keyof I as I[K] extends Operand<true> ? K : never]?: Tensor | undefined } & {
  [K in keyof A]: AttrValue<A[K]>;
};

export interface OpDeclaration<I extends Operands = Operands, A extends Attrs = Attrs, O extends Operands = Operands> {
  readonly name: string;
  readonly inputs: I;
  readonly attrs: A;
  readonly outputs: O;
}

type Results<O extends Operands> = { readonly [K in keyof O]: Tensor };

/** An op as a function: checks its operands' shapes, adds a node to their graph and returns the results by name. */
export interface Op<I extends Operands, A extends Attrs, O extends Operands> {
  (args: OpArgs<I, A>): Results<O>;
  readonly declaration: OpDeclaration<I, A, O>;
}

export function defineOp<const I extends Operands, const A extends Attrs, const O extends Operands>(
  name: string,
  spec: { inputs: I; attrs: A; outputs: O },
): Op<I, A, O> {
  const declaration: OpDeclaration<I, A, O> = { name, ...spec };
  const op = (args: OpArgs<I, A>): Results<O> => addNode(declaration, args as Record<string, unknown>) as Results<O>;
  return Object.assign(op, { declaration });
}

function addNode(declaration: OpDeclaration, args: Record<string, unknown>): Record<string, Tensor> {
  const { name, inputs, attrs, outputs } = declaration;
  const axes = new Map<string, Dim>();
  const attrWords: Record<string, number> = {};
  for (const [key, type] of Object.entries(attrs)) {
    attrWords[key] = attrWord(name, key, type, args[key]);
    if (type === 'i32') axes.set(key, attrWords[key] as number);
  }
  const operands: Record<string, Tensor | undefined> = {};
  for (const [key, expected] of Object.entries(inputs)) {
    const tensor = args[key] as Tensor | undefined;
    if (tensor === undefined && !expected.optional)
      throw mismatch('INVALID_ARGUMENT', `${name}: ${key}`, 'a tensor', 'nothing');
    if (tensor !== undefined) bindAxes(name, key, expected, tensor, axes);
    operands[key] = tensor;
  }
  const graph = Object.values(operands).find((tensor) => tensor !== undefined)?.graph;
  if (!graph) throw new CrosscurrentError('INVALID_ARGUMENT', `${name}: no operand`);
  const results: Record<string, Tensor> = {};
  for (const [key, result] of Object.entries(outputs)) {
    const shape = result.axes.map((axis) => evaluate(name, key, axis, axes));
    results[key] = graph.scratch(shape, result.kind === 'i32' ? 'i32' : 'f32');
  }
  graph.add({ declaration, operands, results, attrs: attrWords });
  return results;
}

function attrWord(op: string, key: string, type: AttrType, value: unknown): number {
  if (typeof type === 'object') {
    const index = type.indexOf(value as string);
    if (index < 0) throw mismatch('INVALID_ARGUMENT', `${op}: ${key}`, `one of ${type.join(', ')}`, value);
    return index;
  }
  if (type === 'bool') return value ? 1 : 0;
  if (typeof value !== 'number' || Number.isNaN(value) || (type === 'i32' && !Number.isInteger(value)))
    throw mismatch('INVALID_ARGUMENT', `${op}: ${key}`, type === 'i32' ? 'an integer' : 'a number', value);
  return value;
}

const sameDim = (a: Dim, b: Dim): boolean =>
  typeof a === 'number' || typeof b === 'number' ? a === b : a.symbol === b.symbol && a.times === b.times;

export const showDim = (dim: Dim): string =>
  typeof dim === 'number' ? `${dim}` : dim.times === 1 ? dim.symbol : `${dim.times}*${dim.symbol}`;

function bindAxes(op: string, key: string, expected: Operand, tensor: Tensor, axes: Map<string, Dim>): void {
  const label = `${op}: ${key}`;
  if (expected.kind === 'kv' || expected.kind === 'conv' || expected.kind === 'scan') {
    if (tensor.storage.role !== 'state' || tensor.storage.kind !== expected.kind)
      throw mismatch('INVALID_ARGUMENT', label, `a ${expected.kind} state`, tensor.storage.role);
    return;
  }
  if (expected.kind === 'matrix' ? tensor.storage.role !== 'weight' : tensor.dtype !== expected.kind)
    throw mismatch('INVALID_ARGUMENT', label, expected.kind === 'matrix' ? 'a weight' : expected.kind, tensor.dtype);
  const shown = tensor.shape.map(showDim).join(', ');
  if (tensor.shape.length !== expected.axes.length)
    throw mismatch('INVALID_ARGUMENT', label, `[${expected.axes.join(', ')}]`, `[${shown}]`);
  expected.axes.forEach((axis, i) => {
    const dim = tensor.shape[i] as Dim;
    const [left, right] = axis.split('*') as [string, string?];
    const wrong = (want: string) => mismatch('INVALID_ARGUMENT', label, want, `${showDim(dim)} in [${shown}]`);
    if (right === undefined) {
      const known = axes.get(left);
      if (known === undefined) axes.set(left, dim);
      else if (!sameDim(known, dim)) throw wrong(`${axis} = ${showDim(known)}`);
      return;
    }
    if (typeof dim !== 'number') throw wrong(`a fixed size for ${axis}`);
    const known = left === '2' ? 2 : (axes.get(left) ?? axes.get(right));
    const unknown = left === '2' || axes.has(left) ? right : left;
    if (typeof known !== 'number' || known <= 0 || dim % known !== 0)
      throw wrong(`a multiple of ${String(known)} for ${axis}`);
    const bound = axes.get(unknown);
    if (bound === undefined) axes.set(unknown, dim / known);
    else if (bound !== dim / known) throw wrong(`${axis} = ${known} * ${showDim(bound)}`);
  });
}

function evaluate(op: string, key: string, axis: AxisExpr, axes: Map<string, Dim>): Dim {
  const value = (part: string): Dim => {
    const dim = part === '2' ? 2 : axes.get(part);
    if (dim === undefined) throw new CrosscurrentError('INTERNAL', `${op}: ${key} has an undetermined axis ${part}`);
    return dim;
  };
  const [left, right] = axis.split('*') as [string, string?];
  if (right === undefined) return value(left);
  const [a, b] = [value(left), value(right)];
  if (typeof a !== 'number' || typeof b !== 'number')
    throw new CrosscurrentError('INTERNAL', `${op}: ${key} multiplies a run-time axis`);
  return a * b;
}
