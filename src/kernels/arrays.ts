import { types } from 'node:util';
import { CrosscurrentError, mismatch } from '../errors.js';

export type AnyArray = Float32Array | Int32Array | Uint32Array | Uint16Array | Uint8Array | Int8Array;

const kinds = {
  Float32Array: types.isFloat32Array,
  Int32Array: types.isInt32Array,
  Uint16Array: types.isUint16Array,
  Uint8Array: types.isUint8Array,
  Int8Array: types.isInt8Array,
} as const;
export type ArrayName = keyof typeof kinds;

export function shown(value: unknown): string {
  if (value === null || value === undefined) return String(value);
  if (ArrayBuffer.isView(value)) return `a ${value.constructor.name}`;
  if (typeof value === 'object') return `a ${value.constructor?.name ?? 'null-prototype object'}`;
  if (typeof value === 'string') return value.length > 40 ? 'a string' : JSON.stringify(value);
  return typeof value === 'symbol' || typeof value === 'function' ? `a ${typeof value}` : String(value);
}

/** Checks an array that native code reads or writes in place: its kind, that it has elements, and that its memory stays. */
export function checkArray(label: string, value: unknown, kind: ArrayName): void {
  if (!kinds[kind](value)) throw mismatch('INVALID_ARGUMENT', label, `a ${kind}`, shown(value));
  const { buffer, length } = value;
  if (types.isSharedArrayBuffer(buffer))
    throw mismatch('INVALID_ARGUMENT', label, 'memory of its own', 'a SharedArrayBuffer');
  if ((buffer as { resizable?: boolean }).resizable === true)
    throw mismatch('INVALID_ARGUMENT', label, 'a buffer of fixed length', 'a resizable one');
  if (length === 0) throw mismatch('INVALID_ARGUMENT', label, 'elements', 'none (empty, or detached)');
}

/** A named array of a call, as it was when the call began. */
export interface Used {
  readonly label: string;
  readonly array: AnyArray;
  readonly bytes: number;
}

export const used = (label: string, array: AnyArray): Used => ({ label, array, bytes: array.byteLength });

/** Results may share memory with no other array of a call, save a state with the place it starts from. */
export function checkOverlaps(outputs: readonly Used[], all: readonly Used[]): void {
  for (const output of outputs)
    for (const other of all) {
      if (other === output || other.array.buffer !== output.array.buffer) continue;
      const [a, b] = [output.array.byteOffset, other.array.byteOffset];
      if (a >= b + other.bytes || b >= a + output.bytes) continue;
      throw mismatch('INVALID_ARGUMENT', output.label, `memory apart from ${other.label}`, 'an overlap');
    }
}

/** Native code worked on memory that JavaScript gave away meanwhile: the results are nowhere. */
export function checkStayed(all: readonly Used[]): void {
  for (const { label, array, bytes } of all)
    if (array.byteLength !== bytes)
      throw mismatch('INVALID_ARGUMENT', label, 'an array that keeps its memory during the call', 'a transferred one');
}

/** A new array for a result. */
export function allocate<T>(label: string, type: new (length: number) => T, length: number): T {
  try {
    return new type(length);
  } catch (cause) {
    throw new CrosscurrentError('OUT_OF_MEMORY', `${label}: no memory for ${length} elements`, {
      operand: label,
      expected: 'memory',
      got: `${length} elements refused`,
      cause,
    });
  }
}
