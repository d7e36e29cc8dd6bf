import type { WeightSpec } from '../graph/graph.js';
import type { DType } from '../graph/tensor.js';
import type { KvType } from '../ops/flash-attention.js';

declare const kind: unique symbol;

/** A native object: opaque, checked by its type tag at every call. */
export interface Handle<Kind extends string> {
  readonly [kind]: Kind;
}

export type FileHandle = Handle<'file'>;
export type WeightsHandle = Handle<'weights'>;
export type ProgramHandle = Handle<'program'>;
export type SessionHandle = Handle<'session'>;
/** A list of weight specs being filled. */
export type SpecsHandle = Handle<'specs'>;
/** Bytes on their way in, filled piece by piece. */
export type BlockHandle = Handle<'block'>;
/** A large result on its way out, copied piece by piece. */
export type ResultHandle = Handle<'result'>;
/** A weight as the kernels of the device read it. */
export type PackedHandle = Handle<'packed weight'>;
export type KvCacheHandle = Handle<'kv cache'>;
/** Cancels jobs and tells their progress. */
export type ControlHandle = Handle<'control'>;

export interface Device {
  readonly kind: 'cpu';
  /** As the device calls itself; empty where it does not tell. */
  readonly name: string;
  /** Level of the kernels in use, and all that this machine runs, best last. */
  readonly isa: string;
  readonly isas: readonly string[];
  /** Threads of a step where no other number is asked for. */
  readonly threads: number;
  /** Memory that this process can still take. */
  readonly availableBytes: number;
}

export interface SessionOptions {
  /** Sequences that can hold state. */
  slots: number;
  /** Pages of the kv caches together. */
  pages: number;
  pageTokens: number;
  /** Most pending tokens of a sequence. */
  window: number;
  /** 0: as many as the device has. */
  threads?: number;
  /** Keeps the activations of matrix products in f32. */
  exact?: boolean;
  /** Level of the kernels; the one in use when absent. */
  isa?: string;
  /** Elements of the kv caches; f32 when absent. */
  kv?: KvType;
}

/** What the words of a step may refer to. */
export interface SessionLimits {
  readonly t: number;
  readonly seqs: number;
  readonly rows: number;
  readonly slots: number;
  readonly pages: number;
  readonly pageTokens: number;
  readonly window: number;
  readonly vocab: number;
}

export interface SessionBytes {
  readonly arena: number;
  readonly states: number;
  readonly kv: number;
}

export interface TensorInfo {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** Beside the operands of `runOp`. */
export interface OpOptions {
  threads?: number | undefined;
  isa?: string | undefined;
  /** Keeps the activations of matrix products in f32. */
  exact?: boolean;
  causal?: boolean;
  /** What attention rounds `k` and `v` to. */
  kv?: KvType;
  /** [seqs + 1] ranges of the sequences, of queries and of keys. */
  first?: Int32Array | undefined;
  firstKey?: Int32Array | undefined;
  /** Words of a step that samples. */
  sampling?: Int32Array | undefined;
}

/** The addon's calls (binding/*.cc). Promises reject, and checks of arguments throw, with CrosscurrentError. */
export interface NativeAddon {
  setErrorClass(errorClass: abstract new (...args: never[]) => Error): void;
  newControl(): ControlHandle;
  cancel(control: ControlHandle): void;
  progress(control: ControlHandle): [doneBytes: number, totalBytes: number];
  close(handle: Handle<string>): void;

  newBlock(bytes: number): Promise<BlockHandle>;
  fillBlock(block: BlockHandle, piece: Uint8Array, offset: number): void;
  resultBytes(result: ResultHandle): number;
  copyResult(result: ResultHandle, out: Uint8Array, offset: number): void;

  devices(): Device[];

  openFile(path: string, control?: ControlHandle): Promise<FileHandle>;
  openBytes(bytes: Uint8Array | BlockHandle, name: string): Promise<FileHandle>;
  fileInfo(file: FileHandle): Promise<{
    format: 'gguf' | 'safetensors';
    fileBytes: number;
    files: string[];
    /** JSON arrays of `TensorInfo`, a few hundred each. */
    tensors: string[];
    metadata: string;
  }>;
  fileStrings(
    file: FileHandle,
    key: string,
  ): Promise<{ bytes: Uint8Array | ResultHandle; offsets: Uint32Array | ResultHandle }>;
  fileNumbers(file: FileHandle, key: string): Promise<Float64Array | ResultHandle>;
  fileRead(file: FileHandle, tensor: string): Promise<Uint8Array | ResultHandle>;
  fileDigest(file: FileHandle): Promise<Uint8Array>;

  newSpecs(): SpecsHandle;
  addSpecs(specs: SpecsHandle, more: readonly WeightSpec[]): void;
  loadWeights(
    file: FileHandle,
    program: ProgramHandle,
    specs: SpecsHandle,
    control?: ControlHandle,
  ): Promise<WeightsHandle>;
  weightsBytes(weights: WeightsHandle): number;

  parseProgram(words: Int32Array): ProgramHandle;

  createSession(
    program: ProgramHandle,
    weights: WeightsHandle,
    options: SessionOptions,
    control?: ControlHandle,
  ): Promise<SessionHandle>;
  /** `want`: 1 ids, 2 logits, 3 both. */
  step(
    session: SessionHandle,
    words: Int32Array,
    want: number,
    control?: ControlHandle,
  ): Promise<{ ids?: Int32Array; logits?: Float32Array | ResultHandle } | undefined>;
  readBuffer(session: SessionHandle, buffer: number): Promise<Float32Array | ResultHandle>;
  readState(session: SessionHandle, state: number, unit: number): Promise<Float32Array | ResultHandle>;
  copyUnits(session: SessionHandle, slots: Int32Array, pages: Int32Array): Promise<void>;
  save(session: SessionHandle, slot: number, pages: Int32Array): Promise<Uint8Array | ResultHandle>;
  restore(
    session: SessionHandle,
    bytes: Uint8Array | BlockHandle | ResultHandle,
    slot: number,
    pages: Int32Array,
  ): Promise<void>;
  sessionLimits(session: SessionHandle): SessionLimits;
  sessionBytes(session: SessionHandle): SessionBytes;
  expertLoads(session: SessionHandle): number[][];

  /** `operands`: inputs, outputs, and last where a recurrent state ends; `dtypes`: what 16-bit words are. */
  runOp(
    opcode: number,
    axes: readonly number[],
    attrs: Int32Array,
    operands: readonly unknown[],
    dtypes: Int32Array,
    options: OpOptions,
    control?: ControlHandle,
  ): Promise<undefined>;
  /** `shape`: [experts, out, in, group] */
  packGroups(
    bits: 4 | 8,
    arrays: readonly unknown[],
    shape: readonly number[],
    control?: ControlHandle,
  ): Promise<PackedHandle>;
  packFloats(
    bits: 4 | 8,
    arrays: readonly unknown[],
    shape: readonly number[],
    isSymmetric: boolean,
    control?: ControlHandle,
  ): Promise<PackedHandle>;
  /** [experts, out, in, bytes] */
  packedInfo(packed: PackedHandle): Float64Array;
  newKvCache(kvHeads: number, headDim: number, capacity: number, dtype: KvType): KvCacheHandle;
  /** The rows that the cache then holds. */
  appendKv(cache: KvCacheHandle, arrays: readonly unknown[], threads: number, control?: ControlHandle): Promise<number>;
  truncateKv(cache: KvCacheHandle, length: number): Promise<number>;
  /** Bytes read (0), f32 (1) or int8 (2) operations a second; 0 where this machine has no such instruction. */
  probe(kind: 0 | 1 | 2, threads: number): Promise<number>;
  /** Nanoseconds for a cache line from core to core, the median over pairs; 0 where there is one core. */
  coreLatency(): Promise<number>;
}
