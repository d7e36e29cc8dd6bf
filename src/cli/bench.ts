import { writeFile } from 'node:fs/promises';
import { mismatch } from '../errors.js';
import { benchCases, type KernelCase } from '../kernels/cases/index.js';
import type { CallOptions } from '../kernels/kernel.js';
import { measureCoreLatency, measureRoofs, type Roofs, type Timing, timeCalls, timingOf } from '../kernels/measure.js';
import { devices } from '../native/index.js';
import type { KvType } from '../ops/flash-attention.js';
import { version } from '../version.js';
import { benchModel } from './bench-model.js';
import { bestRoofs, printRoofs } from './bench-roofs.js';
import { Runner } from './bench-runner.js';
import { columns } from './table.js';

export interface BenchFlags {
  readonly json?: string;
  readonly threads?: number;
  readonly isa?: string;
  readonly seconds?: number;
  readonly model?: string;
  readonly rounds?: number;
  readonly kv?: KvType;
  readonly peers?: boolean;
}

export interface BenchRow extends Timing {
  readonly op: string;
  readonly label: string;
  readonly gflops: number;
  readonly gbs: number;
  /** Of the measured roof that is nearest: bandwidth, or arithmetic of the kind that the kernel does. */
  readonly share: number;
  readonly roof: 'read' | 'f32' | 'int8';
  /** Of a call on all threads, the mean: what others take of the cores does not count. Missing in older results. */
  readonly cpuUs?: number;
  /** The same on the same sizes, in turns with ours; undefined where the peer has no such kernel. */
  readonly peer?: Timing & { readonly name: string; readonly cpuUs?: number };
}

export interface BenchResult {
  readonly version: string;
  readonly date: string;
  readonly device: unknown;
  readonly options: CallOptions;
  readonly roofs: { readonly before: Roofs; readonly after: Roofs };
  readonly coreLatencyNs: number;
  readonly rows: readonly BenchRow[];
}

/** With a peer, each case's time is spent in this many turns. */
const turns = 5;

/** The `bench` command: kernels, or a whole model. Prints a table; `--json` writes the figures. */
export async function benchCommand(ops: readonly string[], flags: BenchFlags): Promise<void> {
  if (flags.model !== undefined && ops.length > 0)
    throw mismatch('INVALID_ARGUMENT', 'op', 'none beside --model', ops.join(' '));
  const result = flags.model === undefined ? await benchOps(ops, flags) : await benchModel(flags.model, flags);
  if (flags.json !== undefined) await writeFile(flags.json, `${JSON.stringify(result, null, 2)}\n`);
}

/** Times the kernels on sizes of models; calls start cold in no cache but what they leave themselves. */
export async function benchOps(ops: readonly string[], flags: BenchFlags): Promise<BenchResult> {
  const names = [...new Set(benchCases.map(({ op }) => op))];
  for (const op of ops)
    if (!names.includes(op)) throw mismatch('INVALID_ARGUMENT', 'op', `one of ${names.join(', ')}`, op);
  const options = {
    ...(flags.threads === undefined ? {} : { threads: flags.threads }),
    ...(flags.isa === undefined ? {} : { isa: flags.isa }),
  };
  const peer = flags.peers ? await Runner.start('onnxruntime-node') : undefined;
  if (typeof peer === 'string') process.stdout.write(`onnxruntime-node: ${peer}\n`);
  const before = await measureRoofs(flags.threads);
  const timed: ({ op: string; label: string; bytes: number; flops: number } & Timed)[] = [];
  try {
    for (const { op, make } of benchCases) {
      if (ops.length > 0 && !ops.includes(op)) continue;
      const one = await make();
      const runner = peer instanceof Runner ? peer : undefined;
      const times = await timeCase(one, options, 1000 * (flags.seconds ?? 0.5), runner);
      one.dispose?.();
      const { label, bytes, flops } = one;
      timed.push({ op, label, bytes, flops, ...times });
      process.stderr.write(process.stderr.isTTY ? `\r${timed.length} ${op}\x1b[K` : '');
    }
  } finally {
    if (peer instanceof Runner) peer.stop();
  }
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
  // others may use the machine: the better of both is nearer to what it can do
  const after = await measureRoofs(flags.threads);
  const roofs = bestRoofs(before, after);
  const coreLatencyNs = await measureCoreLatency();
  const rows = timed.map(
    ({ op, timing, cpuUs, peer, ...one }): BenchRow => ({
      op,
      label: one.label,
      ...timing,
      cpuUs,
      ...rates(op, one, timing, roofs),
      ...(peer ? { peer } : {}),
    }),
  );
  printRows(rows);
  printRoofs(roofs, coreLatencyNs);
  const [device] = devices();
  return { version, date: new Date().toISOString(), device, options, roofs: { before, after }, coreLatencyNs, rows };
}

type Timed = { timing: Timing; cpuUs: number; peer?: NonNullable<BenchRow['peer']> };

const cpuOfThis = (): number => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

/** Ours alone, or in turns with the peer: what the machine does meanwhile then falls on both. */
async function timeCase(
  one: KernelCase,
  options: CallOptions,
  milliseconds: number,
  runner: Runner | undefined,
): Promise<Timed> {
  const threads = options.threads ?? devices()[0]?.threads ?? 1;
  const prepare = async (): Promise<boolean> => {
    if (!runner || !one.axes) return false;
    try {
      return await runner.call<boolean>('prepare', { one: { op: one.op, axes: one.axes }, threads });
    } catch (error) {
      process.stdout.write(`${(error as Error).message} (${one.op} ${one.label})\n`);
      return false;
    }
  };
  const maps = await prepare();
  const [ours, theirs]: [number[], number[]] = [[], []];
  let [cpu, calls, theirCpu] = [0, 0, 0];
  const timeOurs = async (share: number, fewest: number): Promise<void> => {
    const before = cpuOfThis();
    const samples = await timeCalls(one, options, milliseconds * share, fewest);
    cpu += cpuOfThis() - before;
    calls += samples.length + 1; // one warms up
    ours.push(...samples);
  };
  if (!runner || !maps) {
    await timeOurs(1, 5);
    return { timing: timingOf(ours), cpuUs: cpu / calls };
  }
  for (let turn = 0; turn < turns; turn++) {
    await timeOurs(1 / turns, 1);
    const before = await runner.call<number>('cpu', {});
    theirs.push(...(await runner.call<number[]>('time', { milliseconds: milliseconds / turns })));
    theirCpu += (await runner.call<number>('cpu', {})) - before;
  }
  const peer = { name: runner.name, ...timingOf(theirs), cpuUs: theirCpu / theirs.length };
  return { timing: timingOf(ours), cpuUs: cpu / calls, peer };
}

function printRows(rows: readonly BenchRow[]): void {
  const hasPeer = rows.some(({ peer }) => peer);
  process.stdout.write(
    columns([
      [
        'kernel',
        'case',
        'median µs',
        'p5',
        'p95',
        'CPU µs',
        'GFLOP/s',
        'GB/s',
        'of roof',
        ...(hasPeer ? ['onnxruntime µs', 'p5', 'p95', 'CPU µs', 'ratio', 'by CPU time'] : []),
      ],
      ...rows.map(({ peer, ...row }) => [
        row.op,
        row.label,
        row.medianUs.toFixed(1),
        row.p5Us.toFixed(1),
        row.p95Us.toFixed(1),
        row.cpuUs?.toFixed(1) ?? '',
        row.gflops.toFixed(1),
        row.gbs.toFixed(1),
        `${(100 * row.share).toFixed(0)} % ${row.roof}`,
        ...(hasPeer
          ? peer
            ? [
                peer.medianUs.toFixed(1),
                peer.p5Us.toFixed(1),
                peer.p95Us.toFixed(1),
                peer.cpuUs?.toFixed(1) ?? '',
                (peer.medianUs / row.medianUs).toFixed(2),
                ((peer.cpuUs ?? NaN) / (row.cpuUs ?? NaN)).toFixed(2),
              ]
            : ['', '', '', '', '', '']
          : []),
      ]),
    ]),
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
