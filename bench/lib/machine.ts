import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';

/** The repository root. */
export const root = fileURLToPath(new URL('../../', import.meta.url));

/** Where the models of the benchmarks lie; one that is absent is skipped. */
export const modelFiles: Readonly<Record<string, string>> = {
  smollm2: '.cache/SmolLM2-135M-Instruct.Q4_1.gguf',
  tiny: 'models/tiny/crosscurrent-tiny.Q4_1.gguf',
};

/** The models of a comma-separated list that are there, by name and path; says which are not. */
export function* presentModels(names: string): Generator<{ readonly name: string; readonly path: string }> {
  for (const name of names.split(',')) {
    const path = `${root}${modelFiles[name]}`;
    if (existsSync(path)) yield { name, path };
    else console.log(`\n${name}: skipped, no ${modelFiles[name]}`);
  }
}

export interface MachineFacts {
  readonly date: string;
  readonly commit: string;
  readonly command: string;
  readonly node: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly loadAverage: readonly number[];
  /** Share of all cores that other processes used in the second before the run; undefined where the system does not tell. */
  readonly foreignLoad: number | undefined;
  /** What one thread reads from memory, GB/s: the best of several passes. */
  readonly readGBs: number;
}

export async function describeMachine(command: string): Promise<MachineFacts> {
  return {
    date: new Date().toISOString(),
    commit: commit(),
    command,
    node: process.version,
    cpu: cpus()[0]?.model.trim() ?? 'unknown',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    loadAverage: loadavg().map((load) => Number(load.toFixed(2))),
    foreignLoad: await foreignLoad(),
    readGBs: Number(readBandwidth().toFixed(1)),
  };
}

export function printMachine(facts: MachineFacts): void {
  const { cpu, cores, memoryGiB, node, commit: at, date, loadAverage, foreignLoad: foreign, readGBs } = facts;
  const share = foreign === undefined ? 'unknown' : `${(100 * foreign).toFixed(0)} %`;
  console.log(`${date}  commit ${at}  node ${node}`);
  console.log(`${cpu}, ${cores} cores, ${memoryGiB} GiB; one thread reads ${readGBs} GB/s`);
  console.log(`load average ${loadAverage.join(' ')}; other processes use ${share} of the cores`);
}

/** Writes bench/results/<name>-<time>.json and returns its path. */
export function saveResult(name: string, facts: MachineFacts, result: unknown): string {
  const path = `bench/results/${name}-${facts.date.slice(0, 19).replaceAll(':', '')}.json`;
  writeFileSync(`${root}${path}`, `${JSON.stringify({ machine: facts, ...(result as object) }, null, 2)}\n`);
  return path;
}

function commit(): string {
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: root, encoding: 'utf8' }).trim();
  try {
    return (
      git('rev-parse', '--short', 'HEAD') +
      (git('status', '--porcelain', '--', 'src', 'native', 'binding') ? '+changes' : '')
    );
  } catch {
    return 'unknown';
  }
}

/** Seconds of all cores, busy and in total, since the machine started; undefined where /proc is absent. */
export function coreSeconds(): { busy: number; total: number } | undefined {
  try {
    const fields =
      readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]?.trim().split(/\s+/).slice(1, 9).map(Number) ?? [];
    const total = fields.reduce((sum, ticks) => sum + ticks, 0) / 100;
    return { busy: total - ((fields[3] ?? 0) + (fields[4] ?? 0)) / 100, total };
  } catch {
    return undefined;
  }
}

async function foreignLoad(): Promise<number | undefined> {
  const before = coreSeconds();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const after = coreSeconds();
  return before && after && Number(((after.busy - before.busy) / (after.total - before.total)).toFixed(2));
}

/** A search for a byte that is not there (memchr) reads with vector loads and does little else. */
function readBandwidth(): number {
  const block = Buffer.alloc(256 << 20, 1);
  let best = 0;
  for (let pass = 0; pass < 7; pass++) {
    const start = performance.now();
    block.indexOf(2);
    best = Math.max(best, block.length / 1e6 / (performance.now() - start));
  }
  return best;
}
