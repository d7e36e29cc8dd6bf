// One mechanism for all ops: from a declaration the types of a call, the check of its operands, and the native call.
import { mismatch } from '../errors.js';
import { dtypeNumber } from '../graph/tensor.js';
import { addon, openAddon } from '../native/addon.js';
import { runJob } from '../native/job.js';
import type { OpOptions } from '../native/types.js';
import {
  type Attrs,
  type AttrType,
  type AttrValue,
  type Axis,
  axesOf,
  type Op,
  type OpDeclaration,
  type Operand,
  type Operands,
} from '../ops/define.js';
import { opcodes } from '../ops/opcodes.gen.js';
import { type AnyArray, allocate, checkArray, checkOverlaps, checkStayed, shown, type Used, used } from './arrays.js';
import { camelCase, elementsOf, type Free, setAxis, solveAxes } from './axes.js';
import { object, PackedWeight, type Weight } from './weights.js';

export type Camel<Name extends string> = Name extends `${infer Head}_${infer Tail}`
  ? `${Head}${Capitalize<Camel<Tail>>}`
  : Name;

/** Sizes of axes that the lengths of the arrays do not tell. */
export type Shape = { [A in Axis as Camel<A>]?: number };

export interface CallOptions {
  shape?: Shape;
  /** Most threads; as many as there are cores unless given. */
  threads?: number;
  /** Level of the kernels, one of `isas` of `devices()`; the best one unless given. */
  isa?: string;
  signal?: AbortSignal;
}

/** Of an op with a recurrent state: several sequences, one after the other along `t`. */
export interface Ragged {
  /** [seqs + 1]: where each sequence begins, then `t`. One sequence unless given. */
  first?: Int32Array;
}

type ArrayOf<O> =
  O extends Operand<boolean, infer Kind>
    ? Kind extends 'i32'
      ? Int32Array
      : Kind extends 'matrix'
        ? Weight
        : Float32Array
    : never;
type Recurrent = Operand<boolean, 'conv' | 'scan'>;
type Optional = Operand<true> | Operand<boolean, 'conv' | 'scan'>;

type Inputs<I extends Operands> = {
  [K in keyof I & string as I[K] extends Optional | Operand<boolean, 'kv'> ? never : Camel<K>]: ArrayOf<I[K]>;
} & {
  [K in keyof I & string as I[K] extends Optional ? Camel<K> : never]?: ArrayOf<I[K]> | undefined;
};
type Attributes<A extends Attrs, D> = {
  [K in keyof A & string as K extends keyof D ? never : Camel<K>]: AttrValue<A[K]>;
} & { [K in keyof A & string as K extends keyof D ? Camel<K> : never]?: AttrValue<A[K]> };

export type Results<I extends Operands, O extends Operands> = { [K in keyof O & string as Camel<K>]: ArrayOf<O[K]> } & {
  [K in keyof I & string as I[K] extends Recurrent ? Camel<K> : never]: Float32Array;
};
type HasState<I extends Operands> = { [K in keyof I]: I[K] extends Recurrent ? true : never }[keyof I];

/** What a kernel is called with: operands and attributes by name, and where results go (`out`; new arrays unless given). */
export type KernelArgs<I extends Operands, A extends Attrs, O extends Operands, D> = Inputs<I> &
  Attributes<A, D> &
  CallOptions &
  ([HasState<I>] extends [never] ? unknown : Ragged) & { out?: Partial<Results<I, O>> };

export type Kernel<I extends Operands, A extends Attrs, O extends Operands, D, More = unknown> = (
  args: KernelArgs<I, A, O, D> & More,
) => Promise<Results<I, O>>;

/** What a kernel knows beyond the declaration of its op. */
export interface KernelSpec<D> {
  /** Attributes that may be left out; undefined where the lengths tell them. */
  readonly defaults?: D;
  readonly free?: Free;
  /** Checks and completes the arguments. */
  readonly prepare?: (args: Readonly<Record<string, unknown>>, call: Prepared) => void;
  /** Keys of arguments that `prepare` reads. */
  readonly keys?: readonly string[];
}

/** What `prepare` may add to. */
export interface Prepared {
  readonly name: string;
  readonly axes: Map<string, number>;
  readonly options: OpOptions;
  /** Operands of native objects, by name. */
  readonly objects: Map<string, unknown>;
}

const isState = ({ kind }: Operand): boolean => kind === 'conv' || kind === 'scan';
const commonKeys = ['shape', 'out', 'threads', 'isa', 'signal', 'first'];

/** `declaration` where operands have other axes than the op's own; the native call goes by the op. */
export function kernel<I extends Operands, A extends Attrs, O extends Operands, D, More = unknown>(
  op: Op<I, A, O>,
  spec: KernelSpec<D & Partial<Record<keyof A & string, unknown>>>,
  name: string = camelCase(op.declaration.name),
  declaration: OpDeclaration = op.declaration,
): Kernel<I, A, O, D, More> {
  const known = new Set([
    ...commonKeys,
    ...(spec.keys ?? []),
    ...[...Object.keys(declaration.inputs), ...Object.keys(declaration.attrs)].map(camelCase),
  ]);
  return async (args) => {
    const call = new Call(name, declaration, spec, known, object(name, args) as Record<string, unknown>);
    await openAddon();
    return (await call.run(op.declaration)) as Results<I, O>;
  };
}

class Call {
  readonly #name: string;
  readonly #declaration: OpDeclaration;
  readonly #args: Readonly<Record<string, unknown>>;
  readonly #axes = new Map<string, number>();
  readonly #attrs: Record<string, number> = {};
  readonly #operands: unknown[] = [];
  readonly #dtypes: number[] = [];
  readonly #all: Used[] = [];
  readonly #options: OpOptions = {};
  readonly #objects = new Map<string, unknown>();
  readonly #results: Record<string, AnyArray> = {};

  constructor(
    name: string,
    declaration: OpDeclaration,
    spec: KernelSpec<unknown>,
    known: ReadonlySet<string>,
    args: Record<string, unknown>,
  ) {
    this.#name = name;
    this.#declaration = declaration;
    this.#args = args;
    for (const key of Object.keys(args)) if (!known.has(key)) throw this.#wrong(key, 'no such operand or option', 'it');
    this.#readAttrs((spec.defaults ?? {}) as Record<string, unknown>);
    this.#readOptions();
    spec.prepare?.(args, { name, axes: this.#axes, options: this.#options, objects: this.#objects });
    const lengths = this.#readInputs();
    const out = this.#readOut(lengths);
    solveAxes(name, { ...declaration.inputs, ...declaration.outputs }, lengths, this.#axes, spec.free ?? []);
    const keys = this.#axes.get('keys'); // of attention: rows of their own
    if (keys !== undefined && !this.#objects.has('cache')) this.#options.firstKey ??= Int32Array.of(0, keys);
    for (const [key, type] of Object.entries(declaration.attrs))
      if (type === 'i32' && this.#attrs[key] === undefined) this.#attrs[key] = this.#axes.get(key) as number;
    this.#makeResults(out);
  }

  async run(op: OpDeclaration): Promise<Record<string, AnyArray>> {
    const order = [...Object.keys(op.attrs), ...axesOf(op)];
    const axes = order.map((axis) => this.#axes.get(axis) ?? 0);
    const words = new Int32Array(Object.keys(op.attrs).length);
    const floats = new Float32Array(words.buffer);
    Object.entries(op.attrs).forEach(([key, type], i) => {
      (type === 'f32' ? floats : words)[i] = this.#attrs[key] as number;
    });
    const opcode = opcodes[op.name as keyof typeof opcodes];
    const dtypes = new Int32Array(this.#operands.length - 1);
    dtypes.set(this.#dtypes);
    const signal = this.#args.signal as AbortSignal | undefined;
    await runJob(signal ? { signal } : {}, (control) =>
      addon().runOp(opcode, axes, words, this.#operands, dtypes, this.#options, control),
    );
    checkStayed(this.#all);
    return this.#results;
  }

  #wrong(key: string, expected: string, got: unknown) {
    return mismatch('INVALID_ARGUMENT', `${this.#name}: ${key}`, expected, shown(got));
  }

  #readAttrs(defaults: Record<string, unknown>): void {
    for (const [key, type] of Object.entries(this.#declaration.attrs)) {
      const value = this.#args[camelCase(key)] ?? defaults[key];
      if (value === undefined && key in defaults) continue;
      const word = attrWord(type, value);
      if (word === undefined) throw this.#wrong(camelCase(key), expectedOf(type), value);
      this.#attrs[key] = word;
      const isAxis = [...Object.values(this.#declaration.inputs), ...Object.values(this.#declaration.outputs)].some(
        ({ axes }) => axes.some((axis) => axis.split('*').includes(key)),
      );
      if (isAxis) setAxis(`${this.#name}: ${camelCase(key)}`, this.#axes, key, value);
    }
  }

  #readOptions(): void {
    const { shape, threads, isa, signal, first } = this.#args;
    if (shape !== undefined) {
      const names = new Map(axesOf(this.#declaration).map((axis) => [camelCase(axis), axis]));
      for (const key of Object.keys(this.#declaration.attrs)) names.set(camelCase(key), key);
      for (const [key, value] of Object.entries(object(`${this.#name}: shape`, shape))) {
        const axis = names.get(key);
        if (axis === undefined) throw this.#wrong('shape', [...names.keys()].join(', '), key);
        if (value !== undefined) setAxis(`${this.#name}: shape`, this.#axes, axis, value);
      }
    }
    if (threads !== undefined && !(Number.isInteger(threads) && (threads as number) >= 1 && (threads as number) <= 256))
      throw this.#wrong('threads', 'an integer 1..256', threads);
    if (isa !== undefined && typeof isa !== 'string') throw this.#wrong('isa', 'the name of a level', isa);
    if (signal !== undefined && !(signal instanceof AbortSignal)) throw this.#wrong('signal', 'an AbortSignal', signal);
    if (first !== undefined) {
      checkArray(`${this.#name}: first`, first, 'Int32Array');
      const total = (first as Int32Array).at(-1);
      setAxis(`${this.#name}: first`, this.#axes, 't', total);
    }
    Object.assign(this.#options, { threads, isa, first });
  }

  #readInputs(): Map<string, number> {
    const lengths = new Map<string, number>();
    for (const [key, operand] of Object.entries(this.#declaration.inputs)) {
      const label = `${this.#name}: ${camelCase(key)}`;
      const value = this.#objects.get(key) ?? this.#args[camelCase(key)];
      this.#dtypes.push(0);
      this.#operands.push(value);
      if (this.#objects.has(key)) continue;
      if (value === undefined || value === null) {
        if (!operand.optional && !isState(operand) && operand.kind !== 'kv')
          throw mismatch('INVALID_ARGUMENT', label, operand.kind === 'matrix' ? 'a weight' : 'an array', shown(value));
        continue;
      }
      if (operand.kind === 'matrix') this.#readWeight(label, key, operand, value, lengths);
      else this.#readArray(label, key, operand, value, lengths);
    }
    return lengths;
  }

  #readArray(label: string, key: string, operand: Operand, value: unknown, lengths: Map<string, number>): void {
    checkArray(label, value, operand.kind === 'i32' ? 'Int32Array' : 'Float32Array');
    this.#all.push(used(label, value as AnyArray));
    if (!isState(operand)) lengths.set(key, (value as AnyArray).length);
  }

  #readWeight(label: string, key: string, operand: Operand, value: unknown, lengths: Map<string, number>): void {
    const at = this.#operands.length - 1;
    if (value instanceof PackedWeight) {
      const dims = [value.experts, value.out, value.in];
      operand.axes.forEach((axis, i) => {
        setAxis(label, this.#axes, axis, dims[3 - operand.axes.length + i]);
      });
      this.#operands[at] = value.handle;
      return;
    }
    let array = value;
    const half = value as { dtype?: unknown; data?: unknown };
    if (typeof value === 'object' && !ArrayBuffer.isView(value) && half.data !== undefined) {
      if (half.dtype !== 'f16' && half.dtype !== 'bf16')
        throw mismatch('INVALID_ARGUMENT', label, 'dtype f16 or bf16', shown(half.dtype));
      checkArray(label, half.data, 'Uint16Array');
      this.#dtypes[at] = dtypeNumber[half.dtype];
      array = half.data;
    } else {
      if (!ArrayBuffer.isView(value))
        throw mismatch('INVALID_ARGUMENT', label, 'a Float32Array, { dtype, data } or a packed weight', shown(value));
      checkArray(label, value, 'Float32Array');
    }
    this.#operands[at] = array;
    this.#all.push(used(label, array as AnyArray));
    lengths.set(key, (array as AnyArray).length);
  }

  /** Results that the caller has a place for. */
  #readOut(lengths: Map<string, number>): Record<string, unknown> {
    const out = this.#args.out === undefined ? {} : object(`${this.#name}: out`, this.#args.out);
    const { inputs, outputs } = this.#declaration;
    const states = Object.keys(inputs).filter((key) => isState(inputs[key] as Operand));
    const names = new Map([...Object.keys(outputs), ...states].map((key) => [camelCase(key), key]));
    const given: Record<string, unknown> = {};
    for (const [name, value] of Object.entries(out)) {
      const key = names.get(name);
      if (key === undefined) throw this.#wrong('out', [...names.keys()].join(', '), name);
      if (value === undefined) continue;
      const kind = outputs[key]?.kind === 'i32' ? 'Int32Array' : 'Float32Array';
      checkArray(`${this.#name}: out.${name}`, value, kind);
      given[key] = value;
      if (key in outputs) lengths.set(key, (value as AnyArray).length);
    }
    return given;
  }

  #makeResults(out: Record<string, unknown>): void {
    const { inputs, outputs } = this.#declaration;
    const written: Used[] = [];
    const add = (key: string, operand: Operand, length: number) => {
      const label = `${this.#name}: out.${camelCase(key)}`;
      const array = (out[key] ??
        (operand.kind === 'i32'
          ? allocate(label, Int32Array, length)
          : allocate(label, Float32Array, length))) as AnyArray;
      this.#results[camelCase(key)] = array;
      this.#operands.push(array);
      const mine = used(label, array);
      this.#all.push(mine);
      written.push(mine);
    };
    for (const [key, operand] of Object.entries(outputs))
      add(key, operand, elementsOf(this.#name, key, operand, this.#axes));
    const state = Object.entries(inputs).find(([, operand]) => isState(operand));
    if (!state) this.#operands.push(undefined);
    else {
      const [key, operand] = state;
      const start = this.#args[camelCase(key)] as Float32Array | undefined;
      const seqs = ((this.#options.first?.length as number | undefined) ?? 2) - 1;
      add(key, operand, seqs * stateElements(this.#declaration.name, this.#axes));
      const end = out[key] as Float32Array | undefined;
      // a state may be moved on where it is
      if (start && end && start.buffer === end.buffer && start.byteOffset === end.byteOffset)
        this.#all.splice(
          this.#all.findIndex(({ array }) => array === start),
          1,
        );
    }
    checkOverlaps(written, this.#all);
  }
}

/** Elements of the recurrent state of one sequence. */
function stateElements(op: string, axes: ReadonlyMap<string, number>): number {
  const size = (axis: string): number => axes.get(axis) as number;
  if (op === 'causal_conv1d') {
    const kernel = size('kernel');
    if (kernel < 2) throw mismatch('INVALID_ARGUMENT', 'causalConv1d: kernel', '2..8', `${kernel}`);
    return (kernel - 1) * size('channels');
  }
  if (op === 'selective_scan') return size('channels') * size('states');
  return size('heads') * size('head_dim') * size('states');
}

function attrWord(type: AttrType, value: unknown): number | undefined {
  if (typeof type === 'object') {
    const index = type.indexOf(value as string);
    return index < 0 ? undefined : index;
  }
  if (type === 'bool') return typeof value === 'boolean' ? Number(value) : undefined;
  if (typeof value !== 'number' || Number.isNaN(value)) return undefined;
  return type === 'i32' && (!Number.isInteger(value) || Math.abs(value) > 0x7fffffff) ? undefined : value;
}

function expectedOf(type: AttrType): string {
  if (typeof type === 'object') return `one of ${type.join(', ')}`;
  return type === 'bool' ? 'a boolean' : type === 'i32' ? 'an integer' : 'a number';
}
