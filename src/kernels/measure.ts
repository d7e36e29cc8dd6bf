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

/** Nanoseconds in which one core sees what another wrote, the median over pairs of cores; 0 where there is one. */
export async function measureCoreLatency(): Promise<number> {
  await openAddon();
  return addon().coreLatency();
}

export interface Spread {
  readonly median: number;
  readonly p5: number;
  readonly p95: number;
  readonly samples: number;
}

/** Nearest-rank percentiles: with few samples p5 and p95 are the extremes. */
export function spread(values: readonly number[]): Spread {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? NaN;
  const middle = sorted.length / 2;
  const median = sorted.length % 2 === 1 ? at(0.5) : ((sorted[middle - 1] ?? NaN) + (sorted[middle] ?? NaN)) / 2;
  return { median, p5: at(0.05), p95: at(0.95), samples: sorted.length };
}

export interface Timing {
  readonly medianUs: number;
  readonly p5Us: number;
  readonly p95Us: number;
  readonly samples: number;
}

export function timingOf(microseconds: readonly number[]): Timing {
  const { median, p5, p95, samples } = spread(microseconds);
  return { medianUs: median, p5Us: p5, p95Us: p95, samples };
}

/** Wall time in microseconds of calls one after the other, from the promise's start to its end. The first, which warms up, is not among them. */
export async function timeCalls(
  one: KernelCase,
  options: CallOptions,
  milliseconds: number,
  fewest: number,
): Promise<number[]> {
  await one.run(options);
  const samples: number[] = [];
  const end = performance.now() + milliseconds;
  while (samples.length < fewest || (performance.now() < end && samples.length < 20_000)) {
    const start = performance.now();
    await one.run(options);
    samples.push(1000 * (performance.now() - start));
  }
  return samples;
}

export async function time(one: KernelCase, options: CallOptions, milliseconds: number): Promise<Timing> {
  return timingOf(await timeCalls(one, options, milliseconds, 5));
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
