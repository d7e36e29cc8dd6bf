// A reader of its own, so that a fault in the package's does not hide in the tests.
import { readFileSync } from 'node:fs';

export interface GoldenTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array | Int32Array;
}

/** F32 and I32 tensors of a safetensors file. */
export function readSafetensors(path: string): Map<string, GoldenTensor> {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, start)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >;
  const tensors = new Map<string, GoldenTensor>();
  for (const [key, { dtype, shape, data_offsets: range }] of Object.entries(header)) {
    if (key === '__metadata__') continue;
    const bytes = Uint8Array.from(file.subarray(start + range[0], start + range[1])).buffer;
    tensors.set(key, { shape, data: dtype === 'I32' ? new Int32Array(bytes) : new Float32Array(bytes) });
  }
  return tensors;
}
