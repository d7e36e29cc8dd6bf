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

/** `12.3 (11.8-12.6)` */
export function show({ median, p5, p95 }: Spread, digits = 1): string {
  return `${median.toFixed(digits)} (${p5.toFixed(digits)}-${p95.toFixed(digits)})`;
}
