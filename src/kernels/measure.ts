import { addon, openAddon } from '../native/addon.js';
import { errorOf, type KernelCase } from './cases/case.js';
import type { CallOptions } from './kernel.js';

export interface Roofs {
  /** Bytes of memory read a second. */
  readonly read: number;
  /** Operations a second. */
  readonly f32: number;
  /** Of int8 products as the kernels form them; 0 where the probe has no such instruction. */
  readonly int8: number;
}

/** What this machine reaches with loops of nothing but loads or arithmetic. */
export async function measureRoofs(threads = 0): Promise<Roofs> {
  await openAddon();
  const native = addon();
  return {
    read: await native.probe(0, threads),
    f32: await native.probe(1, threads),
    int8: await native.probe(2, threads),
  };
}

export interface Timing {
  readonly medianUs: number;
  readonly p5Us: number;
  readonly p95Us: number;
  readonly samples: number;
}

/** Wall time of calls one after the other, from the promise's start to its end. */
export async function time(one: KernelCase, options: CallOptions, milliseconds: number): Promise<Timing> {
  await one.run(options);
  const samples: number[] = [];
  const end = performance.now() + milliseconds;
  while (samples.length < 5 || (performance.now() < end && samples.length < 20_000)) {
    const start = performance.now();
    await one.run(options);
    samples.push(1000 * (performance.now() - start));
  }
  samples.sort((a, b) => a - b);
  const at = (share: number): number => samples[Math.min(samples.length - 1, Math.floor(share * samples.length))]!;
  return { medianUs: at(0.5), p5Us: at(0.05), p95Us: at(0.95), samples: samples.length };
}

/** The largest error of any result, held against the f64 reference. */
export async function worstError(
  one: KernelCase,
  options: CallOptions,
  expected: Record<string, ArrayLike<number>> = one.expected(),
): Promise<number> {
  const got = await one.run(options);
  return Math.max(...Object.entries(got).map(([key, values]) => errorOf(values, expected[key]!)));
}
