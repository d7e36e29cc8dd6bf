// Writes GGUF files of f32 tensors, and turns a Hugging Face model into one as converters do.
import type { NamedTensors } from '../../src/weights/safetensors.js';

type Tensor = NamedTensors[string];
export type GgufValue = string | boolean | number | { readonly u32: number } | readonly number[];

const align = (n: number): number => Math.ceil(n / 32) * 32;

export function encodeGguf(metadata: Readonly<Record<string, GgufValue>>, tensors: NamedTensors): Uint8Array {
  const parts: Buffer[] = [];
  const u32 = (n: number) => parts.push(Buffer.from(Uint32Array.of(n).buffer));
  const u64 = (n: number) => parts.push(Buffer.from(BigUint64Array.of(BigInt(n)).buffer));
  const f32 = (n: number) => parts.push(Buffer.from(Float32Array.of(n).buffer));
  const text = (s: string) => {
    u64(Buffer.byteLength(s));
    parts.push(Buffer.from(s));
  };
  parts.push(Buffer.from('GGUF'));
  u32(3);
  u64(Object.keys(tensors).length);
  u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    if (typeof value === 'string') {
      u32(8);
      text(value);
    } else if (typeof value === 'boolean') {
      u32(7);
      parts.push(Buffer.of(value ? 1 : 0));
    } else if (typeof value === 'number') {
      u32(6);
      f32(value);
    } else if ('u32' in value) {
      u32(4);
      u32(value.u32);
    } else {
      u32(9);
      u32(4);
      u64(value.length);
      for (const n of value) u32(n);
    }
  }
  let offset = 0;
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    text(name);
    u32(shape.length);
    for (const n of shape.toReversed()) u64(n);
    u32(0);
    u64(offset);
    offset = align(offset + data.byteLength);
  }
  const header = Buffer.concat(parts);
  const file = new Uint8Array(align(header.length) + offset);
  file.set(header);
  let at = align(header.length);
  for (const { data } of Object.values(tensors)) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += align(data.byteLength);
  }
  return file;
}

/** Rows of q or k so that elements i and i + half of a head, which rotate together, become neighbours. */
export function permuted({ shape, data }: Tensor, heads: number): Tensor {
  const [rows, columns] = shape as [number, number];
  const half = rows / heads / 2;
  const moved = new Float32Array(data.length);
  for (let row = 0; row < rows; row++) {
    const [head, which, i] = [Math.floor(row / (2 * half)), Math.floor(row / half) % 2, row % half];
    moved.set(data.subarray(row * columns, (row + 1) * columns), (head * 2 * half + 2 * i + which) * columns);
  }
  return { shape, data: moved };
}

/** Half of each matrix of a tensor [..., rows, columns]: Granite's fused gate and up. */
export function halfRows({ shape, data }: Tensor, which: 0 | 1): Tensor {
  const [rows, columns] = shape.slice(-2) as [number, number];
  const half = (rows / 2) * columns;
  return {
    shape: [...shape.slice(0, -2), rows / 2, columns],
    data: data.filter((_, i) => Math.floor(i / half) % 2 === which),
  };
}
