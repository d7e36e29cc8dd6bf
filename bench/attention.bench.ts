/**
 * Attention over caches of every type: decode after 2,048 and 32,768 tokens, a prompt of 2,048. The types take turns, and onnxruntime-node with them where it is installed and has the like (prefill over f32).
 *
 * `npm run bench -- attention [--threads 1] [--rounds 9]`
 */
import { parseArgs } from 'node:util';
import { Runner } from '../src/cli/bench-runner.js';
import type { KernelCase } from '../src/kernels/cases/case.js';
import { attentionCase, decodeCase } from '../src/kernels/cases/sequence.js';
import { measureCoreLatency, measureRoofs, timeCalls, timingOf } from '../src/kernels/measure.js';
import { type KvType, kvTypes } from '../src/ops/flash-attention.js';
import { describeMachine, printMachine, saveResult } from './lib/machine.js';

const sizes = { heads: 32, kvHeads: 8, headDim: 128 };
const settings: readonly { name: string; milliseconds: number; make(kv: KvType): unknown }[] = [
  { name: 'decode 2048', milliseconds: 60, make: (kv) => decodeCase({ seqs: [[1, 2048]], ...sizes, kv }) },
  { name: 'decode 32768', milliseconds: 60, make: (kv) => decodeCase({ seqs: [[1, 32768]], ...sizes, kv }) },
  { name: 'prefill 2048', milliseconds: 1, make: (kv) => attentionCase({ seqs: [[2048, 2048]], ...sizes, kv }) },
];

interface Contestant {
  readonly kv: KvType;
  readonly runner: string;
  readonly samples: number[];
  time(): Promise<number[]>;
}

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: { threads: { type: 'string', default: '1' }, rounds: { type: 'string', default: '9' } },
  });
  const [threads, rounds] = [Number(values.threads), Number(values.rounds)];
  const facts = await describeMachine(`npm run bench -- attention ${args.join(' ')}`.trim());
  printMachine(facts);
  const peer = await Runner.start('onnxruntime-node');
  if (typeof peer === 'string') console.log(`onnxruntime-node: ${peer}`);
  const before = await measureRoofs(threads);
  const results: object[] = [];
  for (const { name, milliseconds, make } of settings) {
    const contestants: Contestant[] = [];
    const cases: KernelCase[] = [];
    for (const kv of kvTypes) {
      const one = (await make(kv)) as KernelCase;
      cases.push(one);
      contestants.push({
        kv,
        runner: 'crosscurrent',
        samples: [],
        time: () => timeCalls(one, { threads }, milliseconds, 1),
      });
      const theirs = { one: { op: one.op, axes: one.axes }, threads };
      if (kv !== 'f32' || typeof peer === 'string' || !one.axes) continue;
      if (!(await peer.call<boolean>('prepare', theirs))) continue;
      const time = () => peer.call<number[]>('time', { milliseconds });
      contestants.push({ kv, runner: peer.name, samples: [], time });
    }
    for (let round = 0; round < rounds; round++)
      for (const each of contestants) each.samples.push(...(await each.time()));
    const { flops } = cases[0] as KernelCase;
    for (const { kv, runner, samples } of contestants) {
      const timing = timingOf(samples);
      const bytes = (cases[kvTypes.indexOf(kv)] as KernelCase).bytes;
      const gbs = name.startsWith('decode') ? { gbs: bytes / timing.medianUs / 1e3 } : {};
      results.push({ case: name, kv, runner, ...timing, gflops: flops / timing.medianUs / 1e3, ...gbs });
      console.log(
        name,
        kv,
        runner,
        `${timing.medianUs.toFixed(0)} us (${timing.p5Us.toFixed(0)}–${timing.p95Us.toFixed(0)})`,
      );
    }
    for (const one of cases) one.dispose?.();
  }
  if (typeof peer !== 'string') peer.stop();
  const roofs = { before, after: await measureRoofs(threads) };
  const coreLatencyNs = await measureCoreLatency();
  console.log(`\n${saveResult('attention', facts, { threads, roofs, coreLatencyNs, results })}`);
}
