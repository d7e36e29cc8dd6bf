/**
 * Whole models, interleaved with node-llama-cpp on the same files: prefill, decode, load time, memory.
 *
 * Each runner is a process kept alive; every round asks each in turn, so that what the machine does meanwhile falls on all. `--cases` also knows decode-2048 and prefill-2048. A measurement whose process got less than
 * `cleanShare` of a core's time was disturbed: its round counts only for the ratio of CPU times, where waiting does not show.
 */
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type Loaded, type Measured, type PhaseTime, Runner } from '../src/cli/bench-runner.js';
import { describeMachine, modelFiles, presentModels, printMachine, root, saveResult } from './lib/machine.js';
import { type Spread, show, spread } from './lib/statistics.js';

const cases: Readonly<Record<string, Case>> = {
  'decode-32': { name: 'decode after 32', prompt: 32, tokens: 128, phase: 'decode' },
  'prefill-512': { name: 'prefill 512', prompt: 512, tokens: 0, phase: 'prefill' },
  'decode-2048': { name: 'decode after 2048', prompt: 2048, tokens: 32, phase: 'decode' },
  'prefill-2048': { name: 'prefill 2048', prompt: 2048, tokens: 0, phase: 'prefill' },
};
const cleanShare = 0.9;
/** Compiled, as it is installed: a loader of TypeScript would count in the time from the start of the process. */
const childUrl = pathToFileURL(`${root}dist/cli/bench-child.js`);

interface Case {
  readonly name: string;
  readonly prompt: number;
  readonly tokens: number;
  readonly phase: 'prefill' | 'decode';
}

/** Tokens a second of one runner in one case. */
interface Rates {
  readonly runner: string;
  readonly wall: Spread;
  readonly cpu: Spread;
}

interface CaseResult {
  readonly case: string;
  readonly rates: readonly Rates[];
  /** Ours / the peer's, round by round. */
  readonly wallRatio: Spread | undefined;
  readonly cpuRatio: Spread | undefined;
}

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      rounds: { type: 'string', default: '7' },
      threads: { type: 'string', default: '1' },
      models: { type: 'string', default: Object.keys(modelFiles).join(',') },
      cases: { type: 'string', default: 'decode-32,prefill-512' },
      'no-peer': { type: 'boolean', default: false },
    },
  });
  const [rounds, threads] = [Number(values.rounds), Number(values.threads)];
  const facts = await describeMachine(`npm run bench -- generate ${args.join(' ')}`.trim());
  printMachine(facts);
  const results = [];
  for (const { name, path } of presentModels(values.models)) {
    const runners: Runner[] = [];
    for (const name of values['no-peer']
      ? (['crosscurrent'] as const)
      : (['crosscurrent', 'node-llama-cpp'] as const)) {
      const runner = await Runner.start(name, { childUrl });
      if (typeof runner === 'string') console.log(`\n${name}: ${runner}`);
      else runners.push(runner);
    }
    try {
      results.push({
        model: name,
        threads,
        ...(await compare(name, path, runners, { rounds, threads, cases: values.cases.split(',') })),
      });
    } finally {
      for (const runner of runners) runner.stop();
    }
  }
  console.log(`\n${saveResult('generate', facts, { results })}`);
}

async function compare(
  name: string,
  path: string,
  runners: readonly Runner[],
  { rounds, threads, cases: chosen }: { rounds: number; threads: number; cases: readonly string[] },
) {
  const load: Record<string, Loaded> = {};
  console.log(`\n${name}, ${threads} thread${threads === 1 ? '' : 's'}`);
  for (const runner of runners) {
    const loaded = await runner.load({ path, threads, context: 2560 });
    // the first generation also warms up
    const { peakRssMB } = await runner.measure({ prompt: 32, tokens: 64 });
    load[runner.name] = { ...loaded, peakRssMB };
    const figures = `load ${loaded.loadMs.toFixed(0)} ms, ready ${loaded.sinceStartMs.toFixed(0)} ms after the start`;
    console.log(`  ${runner.name}: ${figures}; peak RSS of 64 tokens ${peakRssMB.toFixed(0)} MB (${loaded.isa ?? ''})`);
  }
  const results: CaseResult[] = [];
  for (const one of chosen.flatMap((name) => cases[name] ?? [])) {
    const timings = runners.map((): PhaseTime[] => []);
    const counts = runners.map((): number[] => []);
    for (let round = 0; round < rounds; round++) {
      for (const [i, runner] of runners.entries()) {
        const measured: Measured = await runner.measure(one);
        timings[i]?.push(measured[one.phase]);
        counts[i]?.push(one.phase === 'prefill' ? one.prompt : measured.decode.tokens);
      }
    }
    const result = summarize(one.name, runners, timings, counts);
    results.push(result);
    printCase(result);
  }
  return { load, cases: results };
}

function summarize(name: string, runners: readonly Runner[], timings: PhaseTime[][], counts: number[][]): CaseResult {
  const rate = (i: number, round: number, key: keyof PhaseTime): number =>
    (1000 * (counts[i]?.[round] ?? 0)) / (timings[i]?.[round]?.[key] ?? NaN);
  const all = timings[0]?.map((_, round) => round) ?? [];
  const clean = all.filter((round) => timings.every((list) => share(list[round]) >= cleanShare));
  const ratio = (rounds: number[], key: keyof PhaseTime): Spread | undefined =>
    runners.length < 2 ? undefined : spread(rounds.map((round) => rate(0, round, key) / rate(1, round, key)));
  return {
    case: name,
    rates: runners.map((runner, i) => ({
      runner: runner.name,
      wall: spread(clean.map((round) => rate(i, round, 'wallMs'))),
      cpu: spread(all.map((round) => rate(i, round, 'cpuMs'))),
    })),
    wallRatio: ratio(clean, 'wallMs'),
    cpuRatio: ratio(all, 'cpuMs'),
  };
}

const share = (timing: PhaseTime | undefined): number => (timing ? timing.cpuMs / timing.wallMs : 0);

function printCase({ case: name, rates, wallRatio, cpuRatio }: CaseResult): void {
  console.log(`  ${name}, tok/s: median (p5-p95)`);
  for (const { runner, wall, cpu } of rates)
    console.log(
      `    ${runner.padEnd(16)}${show(wall).padEnd(26)}${wall.samples} clean of ${cpu.samples} rounds; a CPU second: ${show(cpu)}`,
    );
  if (wallRatio && cpuRatio)
    console.log(`    ratio           ${show(wallRatio, 2).padEnd(26)}by CPU time: ${show(cpuRatio, 2)}`);
}
