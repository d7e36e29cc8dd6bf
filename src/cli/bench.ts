import { writeFile } from 'node:fs/promises';
import { mismatch } from '../errors.js';
import { benchCases } from '../kernels/cases/index.js';
import { measureRoofs, type Roofs, type Timing, time } from '../kernels/measure.js';
import { devices } from '../native/index.js';
import { version } from '../version.js';
import { columns } from './table.js';

export interface BenchRow extends Timing {
  readonly op: string;
  readonly label: string;
  readonly gflops: number;
  readonly gbs: number;
  /** Of the measured roof that is nearest: bandwidth, or arithmetic of the kind that the kernel does. */
  readonly share: number;
  readonly roof: 'read' | 'f32' | 'int8';
}

/** Times the kernels on sizes of models; calls start cold in no cache but what they leave themselves. */
export async function benchCommand(
  ops: readonly string[],
  flags: { json?: string; threads?: number; isa?: string; seconds?: number },
): Promise<void> {
  const names = [...new Set(benchCases.map(({ op }) => op))];
  for (const op of ops)
    if (!names.includes(op)) throw mismatch('INVALID_ARGUMENT', 'op', `one of ${names.join(', ')}`, op);
  const options = {
    ...(flags.threads === undefined ? {} : { threads: flags.threads }),
    ...(flags.isa === undefined ? {} : { isa: flags.isa }),
  };
  const before = await measureRoofs(flags.threads);
  const timed: { op: string; label: string; bytes: number; flops: number; timing: Timing }[] = [];
  for (const { op, make } of benchCases) {
    if (ops.length > 0 && !ops.includes(op)) continue;
    const one = await make();
    const timing = await time(one, options, 1000 * (flags.seconds ?? 0.5));
    one.dispose?.();
    const { label, bytes, flops } = one;
    timed.push({ op, label, bytes, flops, timing });
    process.stderr.write(process.stderr.isTTY ? `\r${timed.length} ${op}\x1b[K` : '');
  }
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  // others may use the machine: the better of both is nearer to what it can do
  const after = await measureRoofs(flags.threads);
  const roofs: Roofs = {
    read: Math.max(before.read, after.read),
    f32: Math.max(before.f32, after.f32),
    int8: Math.max(before.int8, after.int8),
  };
  const rows = timed.map(
    ({ op, timing, ...one }): BenchRow => ({ op, label: one.label, ...timing, ...rates(op, one, timing, roofs) }),
  );
  const [device] = devices();
  const show = (rate: number): string => (rate / 1e9).toFixed(1);
  process.stdout.write(
    columns([
      ['kernel', 'case', 'median µs', 'p5', 'p95', 'GFLOP/s', 'GB/s', 'of roof'],
      ...rows.map((row) => [
        row.op,
        row.label,
        row.medianUs.toFixed(1),
        row.p5Us.toFixed(1),
        row.p95Us.toFixed(1),
        row.gflops.toFixed(1),
        row.gbs.toFixed(1),
        `${(100 * row.share).toFixed(0)} % ${row.roof}`,
      ]),
    ]),
  );
  const { read, f32, int8 } = roofs;
  process.stdout.write(`roofs: read ${show(read)} GB/s, f32 ${show(f32)} GFLOP/s, int8 ${show(int8)} GOP/s\n`);
  if (flags.json !== undefined)
    await writeFile(
      flags.json,
      `${JSON.stringify({ version, date: new Date().toISOString(), device, options, roofs: { before, after }, rows }, null, 2)}\n`,
    );
}

/** Kernels whose products are int8. */
const int8Ops = ['int4Matmul', 'int8Matmul', 'moe'];

function rates(op: string, one: { bytes: number; flops: number }, { medianUs }: Timing, roofs: Roofs) {
  const [gflops, gbs] = [one.flops / medianUs / 1000, one.bytes / medianUs / 1000];
  const arithmetic = int8Ops.includes(op) && roofs.int8 > 0 ? 'int8' : 'f32';
  const [ofRead, ofArithmetic] = [(1e9 * gbs) / roofs.read, (1e9 * gflops) / roofs[arithmetic]];
  return ofRead >= ofArithmetic
    ? { gflops, gbs, share: ofRead, roof: 'read' as const }
    : { gflops, gbs, share: ofArithmetic, roof: arithmetic as 'f32' | 'int8' };
}
