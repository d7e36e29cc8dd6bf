import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { CrosscurrentError, mismatch } from '../errors.js';
import { openBytes, openFile, type TensorFile } from '../native/index.js';
import { Config, type RawConfig } from './config.js';
import { readGguf, ropeFactorsTensor } from './gguf.js';
import { readConfig, safetensorsCheckpoint } from './huggingface.js';
import { encodeSafetensors, type NamedTensors } from './safetensors.js';
import type { Checkpoint, StoredTensor } from './weights.js';

/** A path, or a model in memory: its `config.json` and tensors. */
export type ModelSource = string | { readonly config: RawConfig; readonly tensors: NamedTensors };

/** A model's files, opened: nothing of the weights has been read. */
export interface ModelFiles {
  readonly format: 'gguf' | 'safetensors';
  /** The GGUF file, or the folder; `(memory)` for a model in memory. */
  readonly path: string;
  readonly config: Config;
  readonly checkpoint: Checkpoint;
  readonly tensors: readonly StoredTensor[];
  readonly file: TensorFile;
  close(): void;
}

const inMemory = '(memory)';

/**
 * Opens a `.gguf` file, or a folder with `config.json` and safetensors (one of its files will do).
 *
 * @throws CrosscurrentError IO, INVALID_FILE, UNSUPPORTED_FORMAT, UNSUPPORTED_ARCHITECTURE; the reason of `signal`.
 */
export async function openModelFiles(source: ModelSource, options: { signal?: AbortSignal } = {}): Promise<ModelFiles> {
  const { signal } = options;
  if (typeof source !== 'string') {
    if (!isObject(source) || !isObject(source.config) || !isObject(source.tensors))
      throw mismatch('INVALID_ARGUMENT', 'model', 'a path, or { config, tensors }', typeof source);
    const file = await openBytes(encodeSafetensors(source.tensors), inMemory);
    return describe(file, async () => new Config(source.config), inMemory, signal);
  }
  // the config of a folder goes first: it is what says that an architecture or a quantisation is not supported
  const folder = (await isFolder(source)) ? source : undefined;
  const config = folder === undefined ? undefined : await readConfig(folder, signal);
  const file = await openFile(source, options);
  const readOwn = async () => config ?? (await readConfig(dirname(source), signal));
  return describe(file, readOwn, source, signal);
}

async function describe(
  file: TensorFile,
  readOwn: () => Promise<Config>,
  path: string,
  signal: AbortSignal | undefined,
): Promise<ModelFiles> {
  try {
    const { format, tensors, metadata } = await file.info();
    signal?.throwIfAborted();
    const common = { format, tensors, file, close: () => file.close() };
    if (format === 'gguf') return { ...common, path, ...readGguf(metadata, tensors, await ropeFactors(file, tensors)) };
    const folder = path === inMemory || (await isFolder(path)) ? path : dirname(path);
    return { ...common, path: folder, config: await readOwn(), checkpoint: safetensorsCheckpoint(tensors) };
  } catch (error) {
    file.close();
    throw error;
  }
}

const isObject = (value: unknown): boolean => typeof value === 'object' && value !== null;

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch (cause) {
    const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
    throw new CrosscurrentError('IO', `${path}: cannot be opened (${code})`, { operand: path, cause });
  }
}

/** Half a head's worth of f32; what is larger is no such tensor. */
const mostRopeFactorBytes = 1 << 16;

async function ropeFactors(file: TensorFile, tensors: readonly StoredTensor[]): Promise<Float32Array | undefined> {
  const tensor = tensors.find(({ name }) => name === ropeFactorsTensor);
  if (!tensor) return undefined;
  if (tensor.dtype !== 'f32' || tensor.bytes > mostRopeFactorBytes)
    throw mismatch('INVALID_FILE', ropeFactorsTensor, 'a small f32 tensor', `${tensor.dtype} [${tensor.shape}]`);
  const bytes = await file.read(ropeFactorsTensor);
  const factors = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  if (!factors.every((factor) => factor > 0 && Number.isFinite(factor)))
    throw mismatch('INVALID_FILE', ropeFactorsTensor, 'positive numbers', 'others');
  return factors;
}
