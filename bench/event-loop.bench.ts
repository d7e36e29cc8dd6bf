/**
 * The longest time that the event loop is held through load, a prompt of 2,000 tokens and a generation of 64; each run in a process of its own.
 * Beside it, what a loop that only waits shows on the same machine in the same run: a busy or virtual machine adds gaps of its own.
 *
 * `npm run bench -- event-loop [--runs 10] [--models smollm2,tiny]`
 */
import { execFile } from 'node:child_process';
import { parseArgs, promisify } from 'node:util';
import { describeMachine, modelFiles, presentModels, printMachine, root, saveResult } from './lib/machine.js';
import { type Spread, show, spread } from './lib/statistics.js';

type Gaps = Record<'idle' | 'load' | 'prompt' | 'generate', number>;

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      runs: { type: 'string', default: '10' },
      models: { type: 'string', default: Object.keys(modelFiles).join(',') },
    },
  });
  const facts = await describeMachine(`npm run bench -- event-loop ${args.join(' ')}`.trim());
  printMachine(facts);
  const runs = [...presentModels(values.models)].map((model) => ({ ...model, gaps: [] as Gaps[] }));
  for (let run = 0; run < Number(values.runs); run++)
    for (const { path, gaps } of runs) {
      const argv = [`${root}bench/runners/event-loop.mjs`, path];
      gaps.push(JSON.parse((await promisify(execFile)(process.execPath, argv)).stdout) as Gaps);
    }
  const results = [];
  console.log('\nlongest gap in ms: median (p5-p95) of the runs');
  for (const { name: model, gaps } of runs) {
    const phases: Record<string, Spread> = {};
    for (const phase of ['idle', 'load', 'prompt', 'generate'] as const) {
      phases[phase] = spread(gaps.map((gap) => gap[phase]));
      console.log(`  ${model.padEnd(8)} ${phase.padEnd(9)} ${show(phases[phase], 2)}`);
    }
    results.push({ model, phases, runs: gaps });
  }
  console.log(`\n${saveResult('event-loop', facts, { results })}`);
}
