import { mismatch } from '../errors.js';
import { addon, openAddon } from '../native/addon.js';
import { runJob } from '../native/job.js';
import type { PackedHandle } from '../native/types.js';
import { checkArray, checkStayed, shown, used } from './arrays.js';

/** 16-bit floats: `data` holds their bits. */
export interface HalfWeight {
  readonly dtype: 'f16' | 'bf16';
  readonly data: Uint16Array;
}

/** A matrix operand: [out, in] row by row (or [experts, out, in]), used where it lies, or packed before. */
export type Weight = Float32Array | HalfWeight | PackedWeight;

/** A quantised weight in native memory, as the kernels read it. Dispose it, or leave it to the garbage collector. */
export class PackedWeight<Format extends 'int4' | 'int8' = 'int4' | 'int8'> {
  readonly format: Format;
  readonly experts: number;
  readonly out: number;
  readonly in: number;
  readonly bytes: number;
  /** @internal */
  readonly handle: PackedHandle;

  /** @internal */
  constructor(format: Format, handle: PackedHandle) {
    this.format = format;
    this.handle = handle;
    [this.experts, this.out, this.in, this.bytes] = addon().packedInfo(handle) as unknown as [
      number,
      number,
      number,
      number,
    ];
  }

  /** Calls under way keep the memory until they are done. */
  dispose(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

export interface WeightShape {
  experts?: number;
  out?: number;
  in?: number;
}

export interface PackOptions {
  /** Two of the three suffice; `experts` is 1 unless given. */
  shape: WeightShape;
  /** Elements of `in` that share a scale: a multiple of 32 that divides `in`; 32 unless given. */
  group?: number;
  signal?: AbortSignal;
}

export interface FloatsToPack extends PackOptions {
  /** [experts, out, in], rounded to nearest here. */
  weight: Float32Array;
}

export interface Int4ToPack extends PackOptions {
  /** [experts, out, in], an element a byte, 0..15. */
  values: Uint8Array;
  /** [experts, out, in / group]; value = scale · (q - zero). */
  scales: Float32Array;
  /** [experts, out, in / group], 0..15; 8 unless given. */
  zeros?: Uint8Array;
}

export interface Int8ToPack extends PackOptions {
  /** [experts, out, in]. */
  values: Int8Array;
  /** [experts, out, in / group], kept as f16; value = scale · q. */
  scales: Float32Array;
}

/**
 * Packs 4-bit weights: integers with scales and zero points, or floats, which are quantised with a scale and a minimum a group (`symmetric`: a scale
 * alone).
 *
 * @throws CrosscurrentError INVALID_ARGUMENT naming the operand, OUT_OF_MEMORY; the reason of `signal`.
 */
export async function packInt4(
  options: Int4ToPack | (FloatsToPack & { symmetric?: boolean }),
): Promise<PackedWeight<'int4'>> {
  const { symmetric = false, ...rest } = object('packInt4', options) as FloatsToPack & { symmetric?: boolean };
  if (typeof symmetric !== 'boolean')
    throw mismatch('INVALID_ARGUMENT', 'packInt4: symmetric', 'a boolean', shown(symmetric));
  return packed('int4', 'packInt4', rest as Int4ToPack | FloatsToPack, symmetric);
}

/**
 * Packs 8-bit weights: integers with scales, or floats, which are quantised with a scale a group.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT naming the operand, OUT_OF_MEMORY; the reason of `signal`.
 */
export async function packInt8(options: Int8ToPack | FloatsToPack): Promise<PackedWeight<'int8'>> {
  return packed('int8', 'packInt8', object('packInt8', options) as Int8ToPack | FloatsToPack, true);
}

async function packed<Format extends 'int4' | 'int8'>(
  format: Format,
  call: string,
  options: Int4ToPack | Int8ToPack | FloatsToPack,
  symmetric: boolean,
): Promise<PackedWeight<Format>> {
  const bits = format === 'int4' ? 4 : 8;
  const job = options.signal ? { signal: options.signal } : {};
  const arrays: unknown[] = [];
  const all = [];
  const isFloats = 'weight' in options;
  const wanted = isFloats
    ? ([['weight', options.weight, 'Float32Array']] as const)
    : ([
        ['values', options.values, bits === 4 ? 'Uint8Array' : 'Int8Array'],
        ['scales', options.scales, 'Float32Array'],
        ['zeros', bits === 4 ? (options as Int4ToPack).zeros : undefined, 'Uint8Array'],
      ] as const);
  for (const [key, array, kind] of wanted) {
    arrays.push(array);
    if (key === 'zeros' && array === undefined) continue;
    checkArray(`${call}: ${key}`, array, kind);
    all.push(used(`${call}: ${key}`, array as Float32Array));
  }
  const shape = shapeOf(call, options.shape, (arrays[0] as Float32Array).length);
  const group = options.group ?? 32;
  if (!Number.isSafeInteger(group)) throw mismatch('INVALID_ARGUMENT', `${call}: group`, 'an integer', shown(group));
  await openAddon();
  const handle = await runJob(job, (control) =>
    isFloats
      ? addon().packFloats(bits, arrays, [...shape, group], symmetric, control)
      : addon().packGroups(bits, arrays, [...shape, group], control),
  );
  checkStayed(all);
  return new PackedWeight(format, handle);
}

export function object(label: string, value: unknown): object {
  if (typeof value !== 'object' || value === null)
    throw mismatch('INVALID_ARGUMENT', label, 'an object of operands', shown(value));
  return value;
}

/** [experts, out, in], the missing one of `out` and `in` from the number of elements. */
function shapeOf(call: string, shape: WeightShape, elements: number): [number, number, number] {
  const given = object(`${call}: shape`, shape) as WeightShape;
  const side = (key: keyof WeightShape): number | undefined => {
    const value = given[key];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1))
      throw mismatch('INVALID_ARGUMENT', `${call}: shape`, `${key} as an integer, 1 or more`, shown(value));
    return value;
  };
  const experts = side('experts') ?? 1;
  const [out, into] = [side('out'), side('in')];
  const known = experts * (out ?? 1) * (into ?? 1);
  if (out === undefined && into === undefined)
    throw mismatch('INVALID_ARGUMENT', `${call}: shape`, 'out or in', 'neither');
  if (elements % known !== 0 || (out !== undefined && into !== undefined && elements !== known))
    throw mismatch('INVALID_ARGUMENT', `${call}: shape`, `${elements} elements`, `${known}`);
  return [experts, out ?? elements / known, into ?? elements / known];
}
