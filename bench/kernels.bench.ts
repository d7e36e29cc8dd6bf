/**
 * The kernels of the CPU one by one, as `crosscurrent bench` times them, in turns with onnxruntime-node where it is installed; kept for the report.
 *
 * `npm run bench -- kernels [op…] [--threads 1] [--isa avx2] [--seconds 0.5] [--no-peers]`
 */
import { parseArgs } from 'node:util';
import { benchOps } from '../src/cli/bench.js';
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
  const { options, roofs, coreLatencyNs, rows } = await benchOps(positionals, {
    seconds: Number(values.seconds),
    peers: !values['no-peers'],
    ...(values.threads === undefined ? {} : { threads: Number(values.threads) }),
    ...(values.isa === undefined ? {} : { isa: values.isa }),
  });
  console.log(`\n${saveResult('kernels', facts, { options, roofs, coreLatencyNs, rows })}`);
}
