import type { Spread } from '../../src/kernels/measure.js';

export { type Spread, spread } from '../../src/kernels/measure.js';

/** `12.3 (11.8-12.6)` */
export function show({ median, p5, p95 }: Spread, digits = 1): string {
  return `${median.toFixed(digits)} (${p5.toFixed(digits)}-${p95.toFixed(digits)})`;
}
