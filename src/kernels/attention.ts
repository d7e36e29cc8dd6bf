import { mismatch } from '../errors.js';
import { addon, openAddon } from '../native/addon.js';
import { runJob } from '../native/job.js';
import type { KvCacheHandle } from '../native/types.js';
import type { OpDeclaration, Operand } from '../ops/define.js';
import { type KvType, kvTypes } from '../ops/flash-attention.js';
import { flashAttention as op } from '../ops/index.js';
import { checkArray, checkStayed, shown, used } from './arrays.js';
import type { Free } from './axes.js';
import { type CallOptions, type KernelSpec, kernel, type Prepared } from './kernel.js';
import { object } from './weights.js';

/** The op's own declaration with rows of keys apart from rows of queries. */
const declaration: OpDeclaration = {
  ...op.declaration,
  inputs: {
    ...op.declaration.inputs,
    k: keyOperand(op.declaration.inputs.k),
    v: keyOperand(op.declaration.inputs.v),
  },
};

function keyOperand(operand: Operand): Operand {
  return { ...operand, axes: ['keys', ...operand.axes.slice(1)] as unknown as Operand['axes'] };
}

const defaults = { scale: undefined, window: 0, softcap: 0 };
type Args = Readonly<Record<string, unknown>>;

export interface AttentionArgs extends CallOptions {
  /** [t, heads · headDim] */
  q: Float32Array;
  /** [keys, kvHeads · headDim] */
  k: Float32Array;
  v: Float32Array;
  /** [heads]: a logit a head beside its keys. */
  sinks?: Float32Array | undefined;
  /** [heads]: slopes of ALiBi; slope · (j - i) is added to the score of the query at i and the key at j. */
  alibi?: Float32Array | undefined;
  headDim: number;
  /** 1 / sqrt(headDim) unless given. */
  scale?: number;
  /** Only keys less than this many positions back; 0: all. */
  window?: number;
  /** c·tanh(s / c) on the scores; 0: none. */
  softcap?: number;
  /** What `k` and `v` are rounded to, as in a cache of that type; f32 unless given. */
  kv?: KvType;
  out?: { y?: Float32Array };
}

export interface FlashAttentionArgs extends AttentionArgs {
  /** A query sees no key behind its own; true unless given. */
  causal?: boolean;
  /** [seqs + 1]: where the queries of each sequence begin, then `t`. */
  first?: Int32Array;
  /** [seqs + 1] the same of its keys; as `first` unless given. With more keys than queries, queries are the last. */
  firstKey?: Int32Array;
}

export interface DecodeArgs extends Omit<AttentionArgs, 'k' | 'v'> {
  k?: Float32Array | undefined;
  v?: Float32Array | undefined;
  /** [seqs + 1]: where the keys of each sequence begin, then their number. */
  firstKey?: Int32Array;
  /** Instead of `k` and `v`. */
  cache?: KvCache;
}

function kvType(label: string, value: unknown): KvType {
  if (!kvTypes.includes(value as KvType))
    throw mismatch('INVALID_ARGUMENT', label, `one of ${kvTypes.join(', ')}`, shown(value));
  return value as KvType;
}

function readKeys(args: Args, { name, axes, options }: Prepared): void {
  const { causal = true, firstKey } = args;
  if (typeof causal !== 'boolean') throw mismatch('INVALID_ARGUMENT', `${name}: causal`, 'a boolean', shown(causal));
  options.causal = causal;
  if (args.kv !== undefined) options.kv = kvType(`${name}: kv`, args.kv);
  if (firstKey === undefined) return;
  checkArray(`${name}: firstKey`, firstKey, 'Int32Array');
  options.firstKey = firstKey as Int32Array;
  axes.set('keys', (firstKey as Int32Array).at(-1) as number);
}

function prepareAttention(args: Args, call: Prepared): void {
  readKeys(args.firstKey === undefined ? { ...args, firstKey: args.first } : args, call);
}

/** Every sequence has one query, its last token. */
function prepareDecode(args: Args, call: Prepared): void {
  readKeys(args, call);
  const { cache } = args;
  if (cache === undefined) {
    const seqs = ((args.firstKey as Int32Array | undefined)?.length ?? 2) - 1;
    if (seqs < 1) throw mismatch('INVALID_ARGUMENT', `${call.name}: firstKey`, 'two values or more', `${seqs + 1}`);
    call.options.first = Int32Array.from({ length: seqs + 1 }, (_, i) => i);
    call.axes.set('t', seqs);
    for (const key of ['k', 'v'])
      if (args[key] === undefined)
        throw mismatch('INVALID_ARGUMENT', `${call.name}: ${key}`, 'a Float32Array, or a cache', 'nothing');
    return;
  }
  if (!(cache instanceof KvCache)) throw mismatch('INVALID_ARGUMENT', `${call.name}: cache`, 'a KvCache', shown(cache));
  for (const key of ['k', 'v', 'kv', 'firstKey'])
    if (args[key] !== undefined)
      throw mismatch('INVALID_ARGUMENT', `${call.name}: ${key}`, 'nothing beside a cache', shown(args[key]));
  call.axes.set('kv_heads', cache.kvHeads);
  call.axes.set('keys', Math.max(cache.length, 1));
  for (const key of ['k', 'v']) call.objects.set(key, undefined);
  call.objects.set('cache', cache.handle);
}

/** A head size that is no number is refused later, by name. */
const scaleOf = ({ scale, headDim }: Args): unknown =>
  scale ?? (typeof headDim === 'number' && headDim > 0 ? 1 / Math.sqrt(headDim) : 1);

/** Where the scale is left out, it is that of the paper. */
const withScale = <A extends CallOptions, R>(run: (args: A) => Promise<R>, name: string) => {
  return async (args: A): Promise<R> => {
    object(name, args);
    return run({ ...args, scale: scaleOf(args as unknown as Args) });
  };
};

const selfFree: Free = [['keys', (axes) => axes.get('t')]];
const oneQuery: Free = [['t', () => 1]];
const spec = (prepare: NonNullable<KernelSpec<object>['prepare']>, keys: string[], free: Free) => ({
  defaults,
  prepare,
  keys,
  free,
});

/**
 * Attention of queries to keys and values given as arrays: `y = softmax(scale · q·kᵀ + mask) · v`.
 *
 * Without `firstKey` the keys are those of the queries' own tokens, unless `shape` says otherwise.
 */
export const flashAttention: (args: FlashAttentionArgs) => Promise<{ y: Float32Array }> = withScale(
  kernel(op, spec(prepareAttention, ['causal', 'firstKey', 'kv'], selfFree), 'flashAttention', declaration) as (
    args: FlashAttentionArgs,
  ) => Promise<{ y: Float32Array }>,
  'flashAttention',
);

/** One query a sequence, its last token, over the sequence's keys and values: arrays, or a cache that was filled before. */
export const flashAttentionDecode: (args: DecodeArgs) => Promise<{ y: Float32Array }> = withScale(
  kernel(
    op,
    spec(prepareDecode, ['firstKey', 'cache', 'kv'], oneQuery),
    'flashAttentionDecode',
    declaration,
  ) as unknown as (args: DecodeArgs) => Promise<{ y: Float32Array }>,
  'flashAttentionDecode',
);

export interface KvCacheOptions {
  kvHeads: number;
  headDim: number;
  /** Most rows. */
  capacity: number;
  /** What its elements are kept as; f32 unless given. */
  dtype?: KvType;
}

const elementBytes: Readonly<Record<KvType, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/** Keys and values of one sequence in native memory, as the kernels read them. */
export class KvCache {
  readonly kvHeads: number;
  readonly headDim: number;
  readonly capacity: number;
  readonly dtype: KvType;
  /** @internal */
  readonly handle: KvCacheHandle;
  #length = 0;

  private constructor({ kvHeads, headDim, capacity, dtype = 'f32' }: KvCacheOptions) {
    this.handle = addon().newKvCache(kvHeads, headDim, capacity, kvType('KvCache: dtype', dtype));
    this.dtype = dtype;
    this.kvHeads = kvHeads;
    this.headDim = headDim;
    this.capacity = capacity;
  }

  /** @throws CrosscurrentError INVALID_ARGUMENT; OUT_OF_MEMORY before anything is taken. */
  static async create(options: KvCacheOptions): Promise<KvCache> {
    object('KvCache', options);
    await openAddon();
    return new KvCache(options);
  }

  /** Native memory of the rows it holds: elements, and the scales of int8 ones. */
  get bytes(): number {
    const scale = this.dtype === 'int8' ? 4 : 0;
    return 2 * this.#length * this.kvHeads * (this.headDim * elementBytes[this.dtype] + scale);
  }

  /** Rows it holds. */
  get length(): number {
    return this.#length;
  }

  /**
   * Adds rows, rounded to its type: `k` and `v` are [rows, kvHeads · headDim].
   *
   * @throws CrosscurrentError CONTEXT_OVERFLOW beyond its capacity.
   */
  async append(rows: { k: Float32Array; v: Float32Array; threads?: number; signal?: AbortSignal }): Promise<void> {
    const { k, v, threads = 0, signal } = object('KvCache', rows) as typeof rows;
    checkArray('KvCache: k', k, 'Float32Array');
    checkArray('KvCache: v', v, 'Float32Array');
    const all = [used('KvCache: k', k), used('KvCache: v', v)];
    this.#length = await runJob(signal ? { signal } : {}, (control) =>
      addon().appendKv(this.handle, [k, v], threads, control),
    );
    checkStayed(all);
  }

  /** Forgets the rows from `length` on. */
  async truncate(length: number): Promise<void> {
    this.#length = await addon().truncateKv(this.handle, length);
  }

  dispose(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}
