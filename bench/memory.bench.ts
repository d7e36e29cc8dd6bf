/**
 * Memory of a process: its peak while it generates 64 tokens, and whether many short generations leave it where it was.
 *
 * `npm run bench -- memory [--generations 1000] [--models smollm2,tiny]`
 */
import { execFile } from 'node:child_process';
import { parseArgs, promisify } from 'node:util';
import { describeMachine, modelFiles, presentModels, printMachine, root, saveResult } from './lib/machine.js';

/** What the child prints. */
interface Memory {
  readonly nodeMB: number;
  readonly loadedMB: number;
  readonly peakMB: number;
  readonly planned: Readonly<Record<string, number>>;
  /** Resident MB after every tenth part of the generations. */
  readonly series: readonly number[];
}

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      generations: { type: 'string', default: '1000' },
      models: { type: 'string', default: Object.keys(modelFiles).join(',') },
    },
  });
  const facts = await describeMachine(`npm run bench -- memory ${args.join(' ')}`.trim());
  printMachine(facts);
  const results = [];
  for (const { name: model, path } of presentModels(values.models)) {
    const { stdout } = await promisify(execFile)(process.execPath, [
      `${root}bench/runners/memory.mjs`,
      path,
      values.generations,
    ]);
    const memory = JSON.parse(stdout) as Memory;
    // the first tenth fills caches and code; from then on nothing should grow
    const settled = memory.series.slice(1);
    const [low, high] = [Math.min(...settled), Math.max(...settled)];
    const spreadPercent = (100 * (high - low)) / (high + low);
    results.push({ model, ...memory, spreadPercent });
    console.log(
      `\n${model}: node alone ${memory.nodeMB.toFixed(0)} MB, loaded ${memory.loadedMB.toFixed(0)}, peak of 64 tokens ${memory.peakMB.toFixed(0)}`,
    );
    console.log(
      `  after each tenth of ${values.generations} generations: ${memory.series.map((mb) => mb.toFixed(0)).join(' ')}`,
    );
    console.log(`  ±${spreadPercent.toFixed(1)} % from the first tenth on`);
  }
  console.log(`\n${saveResult('memory', facts, { results })}`);
}
