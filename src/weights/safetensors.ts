import { open } from 'node:fs/promises';
import { CrosscurrentError, mismatch } from '../errors.js';

/** Tensors by name, as they are written: f32, outermost axis first. */
export type NamedTensors = Readonly<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array }>>;

/** The header of a safetensors file: its length and a JSON of names, types, shapes and places. */
function header(tensors: NamedTensors): Uint8Array {
  let offset = 0;
  const entries = Object.entries(tensors).map(([name, { shape, data }]) => {
    if (!(data instanceof Float32Array))
      throw mismatch('INVALID_ARGUMENT', `tensor ${name}`, 'data in a Float32Array', typeof data);
    const elements = shape.reduce((product, n) => product * n, 1);
    if (elements !== data.length)
      throw mismatch('INVALID_ARGUMENT', `tensor ${name}`, `${elements} elements for [${shape}]`, data.length);
    const begin = offset;
    offset += data.byteLength;
    return [name, { dtype: 'F32', shape, data_offsets: [begin, offset] }];
  });
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(entries)));
  const length = Math.ceil(json.length / 8) * 8;
  const bytes = new Uint8Array(8 + length).fill(0x20); // padded with spaces
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** The whole file in memory. */
export function encodeSafetensors(tensors: NamedTensors): Uint8Array {
  const parts = [header(tensors), ...Object.values(tensors).map(({ data }) => bytesOf(data))];
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * Writes a safetensors file that `load` reads.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT when a tensor's shape and data disagree, IO.
 */
export async function saveSafetensors(path: string, tensors: NamedTensors): Promise<void> {
  const head = header(tensors);
  try {
    await using file = await open(path, 'w');
    await file.writeFile(head);
    for (const { data } of Object.values(tensors)) await file.writeFile(bytesOf(data));
  } catch (cause) {
    const { code = 'unknown error' } = cause as NodeJS.ErrnoException;
    throw new CrosscurrentError('IO', `${path}: cannot be written (${code})`, { operand: path, cause });
  }
}
