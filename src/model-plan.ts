import { mismatch } from './errors.js';
import { type Bounds, compile, type Program } from './graph/compile.js';
import type { Graph, StateSpec } from './graph/graph.js';
import type { Tensor } from './graph/tensor.js';
import type { ModelDefinition, ModelShape } from './models/define.js';
import { findModel } from './models/index.js';
import { devices } from './native/index.js';
import { type KvType, kvTypes } from './ops/flash-attention.js';
import { sample } from './ops/index.js';
import { turn } from './turn.js';
import type { ModelFiles } from './weights/open.js';

export const pageTokens = 32;
export const chunkTokens = 256;
export const decodeWindow = 64;
const defaultContext = 4096;
const defaultSequences = 16;
/** Most f32 logits of one step: 32 rows of a vocabulary of 128 Ki, 64 of one of 64 Ki. */
const logitElements = 1 << 22;

/** Sizes that decide how much memory a model takes. */
export interface PlanOptions {
  /** Most tokens of a sequence; the model's own limit, but no more than 4096, when absent. */
  context?: number;
  /** Sequences that can hold state at once; more wait. Default: 16. */
  sequences?: number;
  /** Tokens of all sequences together that the attention cache holds. Default: four times the context. */
  cacheTokens?: number;
  /**
   * What keys and values are kept as in the attention cache. `f32` (the default) loses nothing; `f16`, `bf16` and `int8` (with one scale a row and head) take a half, a half and about
   * a quarter of its memory, and rounding changes what the model says a little. With every type a sequence's tokens depend on that sequence alone.
   */
  kv?: KvType;
  /**
   * Memory for beginnings of prompts that later prompts may share: checkpoints of recurrent states, and the index of the cache pages that are kept as long as no request needs them. 0 keeps
   * none. Default: what the recurrent states of eight sequences take, but at least 16 MiB.
   */
  prefixCacheBytes?: number;
  /** Architectures of your own (`defineModel`), looked up before the built-in ones. */
  models?: readonly ModelDefinition[];
}

/** Facts of a checkpoint and its architecture. */
export interface CheckpointInfo extends ModelShape {
  readonly architecture: string;
  /** Where it was loaded from. */
  readonly path: string;
  readonly format: 'gguf' | 'safetensors';
  readonly parameters: number;
  /** Stored types of the tensors and how many tensors have each. */
  readonly dtypes: Readonly<Record<string, number>>;
}

/** Bytes taken, by what for. Activations, states and cache are planned at their largest; the system gives them as they are first touched. */
export interface MemoryPlan {
  readonly weights: number;
  readonly activations: number;
  readonly states: number;
  /** The part of `states` that keeps the inputs of nodes until a step says which were right: what speculation takes. */
  readonly drafts: number;
  readonly cache: number;
  /** Most that beginnings of prompts, kept for later ones, take beside their pages of the cache (`prefixCacheBytes`). */
  readonly prefixes: number;
  readonly total: number;
}

export interface ModelPlan {
  readonly info: CheckpointInfo;
  readonly program: Program;
  /** What the program was compiled from. */
  readonly source: { readonly graph: Graph; readonly logits: Tensor };
  readonly context: number;
  readonly slots: number;
  readonly pages: number;
  /** f32 for models without attention. */
  readonly kv: KvType;
  /** Weights as they are stored, before packing. */
  readonly memory: MemoryPlan;
}

/** Assembles and compiles the model of opened files. Gives way to the event loop between its parts. */
export async function planModel(files: ModelFiles, options: PlanOptions): Promise<ModelPlan> {
  for (const name of ['context', 'sequences', 'cacheTokens'] as const) checkPositive(name, options[name]);
  checkCount('prefixCacheBytes', options.prefixCacheBytes);
  if (options.kv !== undefined && !kvTypes.includes(options.kv))
    throw mismatch('INVALID_ARGUMENT', 'kv', `one of ${kvTypes.join(', ')}`, String(options.kv));
  const definition = findModel(files.config.modelType, options.models ?? []);
  const { graph, logits, shape } = await definition.build(files.config.raw, files.checkpoint);
  const { ids } = sample({ logits });
  await turn();

  const context = options.context ?? Math.min(shape.maxPositions, defaultContext);
  const slots = options.sequences ?? defaultSequences;
  const cacheTokens = Math.max(options.cacheTokens ?? 4 * context, context);
  const hasCache = graph.states.some(({ kind }) => kind === 'kv');
  // a partly filled last page of each sequence does not take from the others
  const pages = hasCache ? Math.ceil(cacheTokens / pageTokens) + slots : 0;
  const rows = Math.max(Math.min(decodeWindow, Math.floor(logitElements / shape.vocab)), 1);
  const bounds: Bounds = { t: chunkTokens, seqs: Math.min(slots, chunkTokens), rows };
  const program = await compile(graph, { logits, ids }, { bounds });
  await turn();
  const kv = hasCache ? (options.kv ?? 'f32') : 'f32';
  const memory = planMemory(files, program, graph, { slots, pages, kv, prefixCacheBytes: options.prefixCacheBytes });
  return {
    info: { ...shape, ...describe(files) },
    program,
    source: { graph, logits },
    context,
    slots,
    pages,
    kv,
    memory,
  };
}

const leastPrefixBytes = 16 * 2 ** 20;

function planMemory(
  files: ModelFiles,
  program: Program,
  graph: Graph,
  {
    slots,
    pages,
    kv,
    prefixCacheBytes,
  }: Pick<ModelPlan, 'slots' | 'pages' | 'kv'> & {
    prefixCacheBytes: number | undefined;
  },
): MemoryPlan {
  const weights = files.tensors.reduce((sum, { bytes }) => sum + bytes, 0);
  const activations = program.arenaBytes;
  let [committed, drafts, cache] = [0, 0, 0];
  for (const state of program.states) {
    const { kind, elements, pendingElements } = state;
    if (kind === 'kv') {
      cache += pages * pageTokens * kvTokenBytes(graph, state, kv);
    } else {
      committed += 4 * slots * elements;
      drafts += 4 * slots * decodeWindow * pendingElements;
    }
  }
  const states = committed + drafts;
  const prefixes = prefixCacheBytes ?? Math.max((8 * committed) / slots, leastPrefixBytes);
  const total = weights + activations + states + cache + prefixes;
  return { weights, activations, states, drafts, cache, prefixes, total };
}

const kvElementBytes: Readonly<Record<KvType, number>> = { f32: 4, f16: 2, bf16: 2, int8: 1 };

/** A token's keys and values in one layer's cache; the same sum as native/cpu/kv_layout.cpp for pages of `pageTokens`. */
function kvTokenBytes(graph: Graph, state: StateSpec, kv: KvType): number {
  const owner = graph.nodes.find(({ operands }) => {
    const storage = operands.cache?.storage;
    return storage?.role === 'state' && graph.states[storage.index] === state;
  });
  const headDim = owner?.attrs.head_dim ?? state.elements;
  const rows = state.elements / headDim;
  const scaleBytes = kv === 'int8' ? 4 : 0;
  // bf16 keys are filled up to whole pairs
  const fill = kv === 'bf16' && headDim % 2 === 1 ? 1 / 2 : 0;
  return rows * ((headDim + fill) * kvElementBytes[kv] + scaleBytes);
}

/** @throws CrosscurrentError OUT_OF_MEMORY where a plan cannot be met, before anything of it is taken. */
export function requireMemory({ weights, activations, states, cache, prefixes, total }: MemoryPlan): void {
  const available = devices()[0]?.availableBytes ?? Number.POSITIVE_INFINITY;
  if (total > available)
    throw mismatch(
      'OUT_OF_MEMORY',
      'memory',
      `a plan of at most ${available} bytes (available now)`,
      `${total} (weights ${weights}, activations ${activations}, states ${states}, cache ${cache}, prefixes ${prefixes}): lower context, sequences, cacheTokens or prefixCacheBytes`,
    );
}

export function checkPositive(name: string, value: number | undefined): void {
  if (value !== undefined && (!Number.isInteger(value) || value < 1))
    throw mismatch('INVALID_ARGUMENT', name, 'a positive integer', String(value));
}

export function checkCount(name: string, value: number | undefined): void {
  if (value !== undefined && (!Number.isInteger(value) || value < 0))
    throw mismatch('INVALID_ARGUMENT', name, 'an integer, 0 or more', String(value));
}

function describe(files: ModelFiles): Omit<CheckpointInfo, keyof ModelShape> {
  const dtypes: Record<string, number> = {};
  let parameters = 0;
  for (const { dtype, shape } of files.tensors) {
    dtypes[dtype] = (dtypes[dtype] ?? 0) + 1;
    parameters += shape.reduce((product, n) => product * n, 1);
  }
  return { architecture: files.config.modelType, path: files.path, format: files.format, parameters, dtypes };
}
