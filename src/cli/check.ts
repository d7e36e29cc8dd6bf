import { CrosscurrentError, mismatch } from '../errors.js';
import { checkCases } from '../kernels/cases/index.js';
import { time, worstError } from '../kernels/measure.js';
import { devices } from '../native/index.js';
import { columns } from './table.js';

export interface CheckRow {
  readonly op: string;
  readonly isa: string;
  readonly cases: number;
  /** The largest error, and what was allowed there. */
  readonly error: number;
  readonly tolerance: number;
  /** The case that came closest to what is allowed, or went beyond. */
  readonly worst: string;
  readonly passed: boolean;
  /** Of the largest case. */
  readonly medianUs: number;
  readonly gflops: number;
  readonly gbs: number;
}

/** Holds every kernel of this machine against its f64 reference, at every level. Exit status 1 where one fails. */
export async function checkCommand(ops: readonly string[], flags: { json?: boolean; threads?: number }): Promise<void> {
  const names = [...new Set(checkCases.map(({ op }) => op))];
  for (const op of ops)
    if (!names.includes(op)) throw mismatch('INVALID_ARGUMENT', 'op', `one of ${names.join(', ')}`, op);
  const [cpu] = devices();
  if (!cpu) throw new CrosscurrentError('DEVICE_UNAVAILABLE', 'no cpu');
  const rows: CheckRow[] = [];
  for (const op of ops.length > 0 ? ops : names) rows.push(...(await checkOp(op, cpu.isas, flags.threads)));
  const failed = rows.filter(({ passed }) => !passed).length;
  if (failed > 0) process.exitCode = 1;
  if (flags.json) {
    process.stdout.write(`${JSON.stringify({ device: cpu, passed: failed === 0, rows })}\n`);
    return;
  }
  process.stdout.write(
    columns([
      ['kernel', 'level', 'cases', 'error', 'allowed', '', 'median µs', 'GFLOP/s', 'GB/s'],
      ...rows.map((row) => [
        row.op,
        row.isa,
        `${row.cases}`,
        row.error.toExponential(1),
        row.tolerance.toExponential(0),
        row.passed ? 'ok' : `FAIL ${row.worst}`,
        row.medianUs.toFixed(0),
        row.gflops.toFixed(2),
        row.gbs.toFixed(2),
      ]),
    ]),
  );
  process.stdout.write(`${rows.length - failed} passed, ${failed} failed\n`);
}

async function checkOp(op: string, isas: readonly string[], threads?: number): Promise<CheckRow[]> {
  const worst = new Map(isas.map((isa) => [isa, { share: -1, error: 0, tolerance: 0, label: '' }]));
  const largest = new Map<string, { flops: number; medianUs: number; gflops: number; gbs: number }>();
  const cases = checkCases.filter((one) => one.op === op);
  for (const { make } of cases) {
    const one = await make();
    const expected = one.expected();
    for (const isa of isas) {
      const options = { isa, ...(threads === undefined ? {} : { threads }) };
      const error = await worstError(one, options, expected);
      const share = one.tolerance > 0 ? error / one.tolerance : error > 0 ? Number.POSITIVE_INFINITY : 0;
      if (share > worst.get(isa)!.share) worst.set(isa, { share, error, tolerance: one.tolerance, label: one.label });
      if ((largest.get(isa)?.flops ?? -1) >= one.flops) continue;
      const { medianUs } = await time(one, options, 20);
      largest.set(isa, {
        flops: one.flops,
        medianUs,
        gflops: one.flops / medianUs / 1000,
        gbs: one.bytes / medianUs / 1000,
      });
    }
    one.dispose?.();
  }
  return isas.map((isa) => {
    const { share, error, tolerance, label } = worst.get(isa)!;
    const { flops: _, ...rates } = largest.get(isa)!;
    return { op, isa, cases: cases.length, error, tolerance, worst: label, passed: share <= 1, ...rates };
  });
}
