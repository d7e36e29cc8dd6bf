import { turn } from '../turn.js';
import { addon } from './addon.js';
import { runJob } from './job.js';
import { received, sendable } from './transfer.js';
import type { FileHandle, TensorInfo } from './types.js';

export interface FileInfo {
  readonly format: 'gguf' | 'safetensors';
  readonly fileBytes: number;
  readonly files: readonly string[];
  readonly tensors: readonly TensorInfo[];
  /** GGUF arrays of more than 1,024 elements are `{ type, length }`: read them with `strings` or `numbers`. */
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** String i is UTF-8 in `bytes`, from `offsets[i]` to `offsets[i + 1]`. */
export interface PackedStrings {
  readonly bytes: Uint8Array;
  readonly offsets: Uint32Array;
}

/** Tensors on disk: a GGUF file, a safetensors file, or a folder of shards. */
export class TensorFile {
  readonly handle: FileHandle;

  constructor(handle: FileHandle) {
    this.handle = handle;
  }

  async info(): Promise<FileInfo> {
    const { tensors: parts, metadata, ...rest } = await addon().fileInfo(this.handle);
    const tensors: TensorInfo[] = [];
    for (const part of parts) {
      tensors.push(...(JSON.parse(part) as TensorInfo[]));
      await turn();
    }
    return { ...rest, tensors, metadata: JSON.parse(metadata) as Record<string, unknown> };
  }

  /** A GGUF array of strings. */
  async strings(key: string): Promise<PackedStrings> {
    const { bytes, offsets } = await addon().fileStrings(this.handle, key);
    return { bytes: await received(bytes, Uint8Array), offsets: await received(offsets, Uint32Array) };
  }

  /** A GGUF array of numbers or booleans. */
  async numbers(key: string): Promise<Float64Array> {
    return received(await addon().fileNumbers(this.handle, key), Float64Array);
  }

  /** The stored bytes of a tensor. */
  async read(tensor: string): Promise<Uint8Array> {
    return received(await addon().fileRead(this.handle, tensor), Uint8Array);
  }

  /** Tells models apart at little cost: a hash of the tensors' names, types and shapes, and of a few bytes of each. */
  async digest(): Promise<Uint8Array> {
    return addon().fileDigest(this.handle);
  }

  close(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** @throws CrosscurrentError IO, INVALID_FILE, UNSUPPORTED_FORMAT; the reason of `signal`. */
export async function openFile(path: string, options: { signal?: AbortSignal } = {}): Promise<TensorFile> {
  return new TensorFile(await runJob(options, (control) => addon().openFile(path, control)));
}

/** One file held in memory; `name` stands for its path in errors. */
export async function openBytes(bytes: Uint8Array, name: string): Promise<TensorFile> {
  return new TensorFile(await addon().openBytes(await sendable(bytes), name));
}
