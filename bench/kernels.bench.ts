/**
 * The kernels of the CPU one by one, as `crosscurrent bench` times them, in turns with onnxruntime-node where it is installed; kept for the report.
 *
 * `npm run bench -- kernels [op…] [--threads 1] [--isa v2,avx2] [--seconds 0.5] [--no-peers]`
 */
import { parseArgs } from 'node:util';
import { benchOps } from '../src/cli/bench.js';
import { devices } from '../src/native/index.js';
import { describeMachine, printMachine, saveResult } from './lib/machine.js';

export async function main(args: string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      threads: { type: 'string' },
      isa: { type: 'string' },
      seconds: { type: 'string', default: '0.5' },
      'no-peers': { type: 'boolean', default: false },
    },
  });
  const facts = await describeMachine(`npm run bench -- kernels ${args.join(' ')}`.trim());
  printMachine(facts);
  const threads = values.threads === undefined ? {} : { threads: Number(values.threads) };
  const levels = [];
  const best = devices()[0]?.isa ?? '';
  for (const isa of values.isa?.split(',') ?? [best]) {
    console.log(`\n${isa}`);
    // a peer takes the best level that it has
    const flags = { ...threads, isa, seconds: Number(values.seconds), peers: isa === best && !values['no-peers'] };
    const { roofs, coreLatencyNs, rows } = await benchOps(positionals, flags);
    levels.push({ isa, roofs, coreLatencyNs, rows });
  }
  console.log(`\n${saveResult('kernels', facts, { ...threads, levels })}`);
}
