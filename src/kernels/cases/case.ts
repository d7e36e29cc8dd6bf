import type { AnyArray } from '../arrays.js';
import type { CallOptions } from '../kernel.js';

/** A kernel on fixed operands, with what it ought to give and what it moves. */
export interface KernelCase {
  /** Name of the kernel in `crosscurrent/kernels`. */
  readonly op: string;
  readonly label: string;
  /** Sizes and options, for benchmarks of other packages that compute the same. */
  readonly axes?: object;
  /** Most of `errorOf` that is right. */
  readonly tolerance: number;
  /** Read and written at least once, and additions and multiplications. */
  readonly bytes: number;
  readonly flops: number;
  /** Results go to the same arrays every time. */
  run(options?: CallOptions): Promise<Record<string, AnyArray>>;
  /** From the formula, in f64. */
  expected(): Record<string, ArrayLike<number>>;
  dispose?(): void;
}

/** Mulberry32: small, and the same on every machine. */
export class Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed | 0;
  }
  bits(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let z = this.#state;
    z = Math.imul(z ^ (z >>> 15), z | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (z ^ (z >>> 14)) >>> 0;
  }
  /** In [low, high). */
  number(low: number, high: number): number {
    return low + ((high - low) * this.bits()) / 2 ** 32;
  }
  below(end: number): number {
    return Math.floor(this.number(0, end));
  }
  pick<T>(values: readonly T[]): T {
    return values[this.below(values.length)] as T;
  }
  floats(length: number, low = -1, high = 1): Float32Array {
    return Float32Array.from({ length }, () => this.number(low, high));
  }
  ints(length: number, end: number): Int32Array {
    return Int32Array.from({ length }, () => this.below(end));
  }
}

/** The largest difference, in units of the value plus the root mean square of all; infinite where one alone is NaN. */
export function errorOf(got: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (got.length !== expected.length) return Number.POSITIVE_INFINITY;
  let squares = 0;
  for (let i = 0; i < expected.length; i++) squares += expected[i]! ** 2;
  const size = Math.max(Math.sqrt(squares / expected.length), 1e-30);
  let worst = 0;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(got[i]! - expected[i]!) / (size + Math.abs(expected[i]!));
    if (Number.isNaN(difference) && !(Number.isNaN(got[i]) && Number.isNaN(expected[i])))
      return Number.POSITIVE_INFINITY;
    if (difference > worst) worst = difference;
  }
  return worst;
}

export const bytesOf = (...arrays: readonly (ArrayBufferView | undefined)[]): number =>
  arrays.reduce((sum, array) => sum + (array?.byteLength ?? 0), 0);
