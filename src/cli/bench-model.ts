// Whole models: a prompt and the tokens after it, in turns with a peer on the same file, beside the bandwidth of the machine.
import { basename, resolve } from 'node:path';
import type { Graph } from '../graph/graph.js';
import { measureCoreLatency, measureRoofs, type Roofs, type Spread, spread } from '../kernels/measure.js';
import { checkPositive, planModel } from '../model-plan.js';
import { openAddon } from '../native/addon.js';
import { devices } from '../native/index.js';
import type { KvType } from '../ops/flash-attention.js';
import { version } from '../version.js';
import { openModelFiles } from '../weights/open.js';
import type { BenchFlags } from './bench.js';
import { bestRoofs, printRoofs } from './bench-roofs.js';
import { type Measured, Runner } from './bench-runner.js';
import { pick } from './options.js';
import { columns, showBytes } from './table.js';

const promptTokens = 512;
const decodedTokens = 64;
const defaultRounds = 7;

/** Tokens a second. */
export interface ModelRates {
  readonly runner: string;
  readonly prefill: Spread;
  readonly decode: Spread;
  /** Of the read roof: bytes of weights that a token needs, read as often as tokens come. Of ours alone, whose bytes are known. */
  readonly decodeShare?: number;
  /** Of the peer: our rate / its rate, round by round. */
  readonly ratio?: { readonly prefill: Spread; readonly decode: Spread };
}

export interface ModelResult {
  readonly version: string;
  readonly date: string;
  readonly device: unknown;
  readonly model: string;
  readonly architecture: string;
  readonly parameters: number;
  readonly threads: number;
  readonly kv: KvType;
  readonly promptTokens: number;
  readonly decodedTokens: number;
  readonly weightBytesAToken: number;
  readonly roofs: { readonly before: Roofs; readonly after: Roofs };
  readonly coreLatencyNs: number;
  readonly rates: readonly ModelRates[];
}

/** @throws CrosscurrentError as `load` */
export async function benchModel(given: string, flags: BenchFlags): Promise<ModelResult> {
  await openAddon();
  const path = resolve(given); // runners are processes, and not all in this folder
  const facts = await readFacts(path);
  const threads = flags.threads ?? devices()[0]?.threads ?? 1;
  const rounds = flags.rounds ?? defaultRounds;
  checkPositive('rounds', rounds);
  const before = await measureRoofs(threads);
  const runners = await startRunners(facts.format, flags.peers ?? false, {
    path,
    threads,
    ...pick(flags, 'isa', 'kv'),
  });
  const measured = runners.map((): Measured[] => []);
  try {
    for (let round = 0; round < rounds; round++)
      for (const [i, runner] of runners.entries())
        measured[i]?.push(await runner.measure({ prompt: promptTokens, tokens: decodedTokens }));
  } finally {
    for (const runner of runners) runner.stop();
  }
  const after = await measureRoofs(threads);
  const roofs = bestRoofs(before, after);
  const prefill = measured.map((list) => list.map(({ prefill }) => (1000 * promptTokens) / prefill.wallMs));
  const decode = measured.map((list) => list.map(({ decode }) => (1000 * decode.tokens) / decode.wallMs));
  const beside = (values: readonly number[][], i: number): Spread =>
    spread((values[0] ?? []).map((ours, round) => ours / (values[i]?.[round] ?? NaN)));
  const rates = runners.map(({ name }, i): ModelRates => {
    const both = { prefill: spread(prefill[i] ?? []), decode: spread(decode[i] ?? []) };
    return i === 0
      ? { runner: name, ...both, decodeShare: (both.decode.median * facts.weightBytesAToken) / roofs.read }
      : { runner: name, ...both, ratio: { prefill: beside(prefill, i), decode: beside(decode, i) } };
  });
  const coreLatencyNs = await measureCoreLatency();
  const { architecture, parameters, weightBytesAToken } = facts;
  const model = basename(path);
  const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`;
  process.stdout.write(
    `${model}: ${architecture}, ${(parameters / 1e6).toFixed(1)} M parameters; ${showBytes(weightBytesAToken)} of weights a token; ${count(threads, 'thread')}, ${flags.kv ?? 'f32'} cache, ${count(rounds, 'round')}\n`,
  );
  printRates(rates);
  printRoofs(roofs, coreLatencyNs);
  return {
    version,
    date: new Date().toISOString(),
    device: devices()[0],
    model,
    architecture,
    parameters,
    threads,
    kv: flags.kv ?? 'f32',
    promptTokens,
    decodedTokens,
    weightBytesAToken,
    roofs: { before, after },
    coreLatencyNs,
    rates,
  };
}

/** Loaded and warm. A peer that cannot be had is named, and left out. */
async function startRunners(
  format: string,
  withPeers: boolean,
  options: { path: string; threads: number; isa?: string; kv?: KvType },
): Promise<Runner[]> {
  const ready: Runner[] = [];
  for (const name of withPeers ? (['crosscurrent', 'node-llama-cpp'] as const) : (['crosscurrent'] as const)) {
    const isOurs = name === 'crosscurrent';
    const runner = isOurs || format === 'gguf' ? await Runner.start(name) : 'reads .gguf files alone';
    try {
      if (typeof runner === 'string') throw new Error(`${name}: ${runner}`);
      await runner.load({ ...options, context: promptTokens + decodedTokens + 2 });
      await runner.measure({ prompt: promptTokens, tokens: decodedTokens });
      ready.push(runner);
    } catch (error) {
      if (typeof runner !== 'string') runner.stop();
      if (isOurs) throw error;
      process.stdout.write(`${(error as Error).message}\n`);
    }
  }
  return ready;
}

function printRates(rates: readonly ModelRates[]): void {
  const show = ({ median, p5, p95 }: Spread, digits: number): string =>
    `${median.toFixed(digits)} (${p5.toFixed(digits)}-${p95.toFixed(digits)})`;
  process.stdout.write(
    columns([
      ['', `prefill ${promptTokens}, tok/s`, `decode ${decodedTokens}, tok/s`, 'of the read roof'],
      ...rates.flatMap(({ runner, prefill, decode, decodeShare, ratio }) => [
        [
          runner,
          show(prefill, 1),
          show(decode, 1),
          decodeShare === undefined ? '' : `${(100 * decodeShare).toFixed(0)} %`,
        ],
        ...(ratio ? [['  ours beside it', show(ratio.prefill, 2), show(ratio.decode, 2), '']] : []),
      ]),
    ]),
  );
}

/** What the header and the graph of a model tell; nothing of the weights is read. */
async function readFacts(path: string) {
  const files = await openModelFiles(path);
  try {
    const { info, source } = await planModel(files, {});
    const bytes = new Map(files.tensors.map((tensor) => [tensor.name, tensor.bytes]));
    return {
      format: info.format,
      architecture: info.architecture,
      parameters: info.parameters,
      weightBytesAToken: weightBytesAToken(source.graph, bytes),
    };
  } finally {
    files.close();
  }
}

/** Bytes of weights, as they are stored, that one token goes through: of experts those chosen, of an embedding a row. */
export function weightBytesAToken(graph: Graph, stored: ReadonlyMap<string, number>): number {
  const shares = new Map<number, number>();
  for (const { declaration, operands } of graph.nodes)
    for (const [key, tensor] of Object.entries(operands)) {
      if (tensor?.storage.role !== 'weight') continue;
      const { index } = tensor.storage;
      let share = 1;
      if (declaration.name === 'embedding') share = 1 / (tensor.shape[0] as number);
      else if (declaration.name === 'moe' && ['gate', 'up', 'down'].includes(key))
        share = (operands.ids?.shape[1] as number) / (tensor.shape[0] as number);
      // a tied head reads all of what the embedding takes one row of
      shares.set(index, Math.max(shares.get(index) ?? 0, share));
    }
  let sum = 0;
  for (const [index, share] of shares)
    for (const { tensor, shape, rows } of graph.weights[index]?.parts ?? []) {
      const all = shape.slice(0, -1).reduce((product, n) => product * n, 1);
      const taken = rows ? (rows[1] - rows[0]) / all : 1;
      sum += share * taken * (stored.get(tensor) ?? 0);
    }
  return Math.round(sum);
}
