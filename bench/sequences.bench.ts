/**
 * Sequences as values: what a fork, a save and a restore of a long sequence cost, what 64 forks of one prefix take, and what drafts add to the memory of a state.
 *
 * `npm run bench -- sequences [--tokens 2000] [--forks 64] [--models tiny,smollm2]`
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { inspect, load, type Model, type Sequence } from '../src/index.js';
import { decodeWindow, pageTokens } from '../src/model-plan.js';
import { collectGarbage } from './lib/garbage.js';
import { describeMachine, presentModels, printMachine, saveResult } from './lib/machine.js';
import { show, spread } from './lib/statistics.js';

const rounds = 9;
const kB = (bytes: number): string => `${(bytes / 1e3).toFixed(0)} kB`;
const MB = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`;

export async function main(args: string[]): Promise<void> {
  const { values } = parseArgs({
    args,
    options: {
      tokens: { type: 'string', default: '2000' },
      forks: { type: 'string', default: '64' },
      models: { type: 'string', default: 'tiny,smollm2' },
    },
  });
  const [tokens, forks] = [Number(values.tokens), Number(values.forks)];
  const facts = await describeMachine(`npm run bench -- sequences ${args.join(' ')}`.trim());
  printMachine(facts);
  const results = [];
  for (const { name, path } of presentModels(values.models)) {
    console.log(`\n${name}, a sequence of ${tokens} tokens`);
    const memory = await stateMemory(path);
    const context = tokens + 64;
    await using model = await load(path, {
      context,
      sequences: forks + 2,
      cacheTokens: 2 * context + forks * pageTokens,
    });
    await using sequence = await model.sequence();
    await sequence.feed(Int32Array.from({ length: tokens - 8 }, (_, i) => 20 + ((i * 7919) % (model.info.vocab - 40))));
    await sequence.generate({ maxTokens: 8, ignoreEos: true }).completion();
    results.push({
      model: name,
      tokens,
      memory,
      fork: await measureForks(model, sequence, forks),
      save: await measureSaves(sequence, await model.sequence()),
    });
  }
  console.log(`\n${saveResult('sequences', facts, { results })}`);
}

/** The planner's figures for one sequence: its state, and what keeping drafts adds. */
async function stateMemory(path: string) {
  const { program } = await inspect(path);
  const recurrent = program.states.filter(({ kind }) => kind !== 'kv');
  const sum = (key: 'elements' | 'pendingElements'): number => recurrent.reduce((n, state) => n + 4 * state[key], 0);
  const [stateBytes, bytesADraft] = [sum('elements'), sum('pendingElements')];
  if (stateBytes === 0) console.log('  no recurrent state: drafts take rows of cache pages and no memory of their own');
  else
    console.log(
      `  recurrent state ${kB(stateBytes)}; a draft token ${kB(bytesADraft)} (1/${(stateBytes / bytesADraft).toFixed(0)}), a window of ${decodeWindow} ${kB(decodeWindow * bytesADraft)}; ${decodeWindow} copies would be ${MB(decodeWindow * stateBytes)}`,
    );
  return { stateBytes, bytesADraft, window: decodeWindow };
}

async function measureForks(model: Model, sequence: Sequence, count: number) {
  const { memory, context } = model.info;
  const cacheBytes = model.program.states.reduce((n, { kind, elements }) => n + (kind === 'kv' ? 4 * elements : 0), 0);
  const recurrent = model.program.states.filter(({ kind }) => kind !== 'kv');
  // what a fork copies: the committed states, the one pending token, and the page that is not full
  const copied =
    recurrent.reduce((n, state) => n + 4 * (state.elements + state.pendingElements), 0) + cacheBytes * pageTokens;
  const settle = async (): Promise<number> => {
    collectGarbage();
    await sleep(50);
    return process.memoryUsage.rss();
  };
  await using barrier = await model.sequence();
  await barrier.feed([1, 2]);
  // a fork returns before its copy is made; what comes after it waits: here the save of a short sequence, whose own time counts too
  const forkAll = async (): Promise<{ twins: Sequence[]; ms: number[]; copiedMs: number }> => {
    const [twins, ms]: [Sequence[], number[]] = [[], []];
    const first = performance.now();
    for (let i = 0; i < count; i++) {
      const start = performance.now();
      twins.push(await sequence.fork());
      ms.push(performance.now() - start);
    }
    await barrier.save();
    return { twins, ms, copiedMs: (performance.now() - first) / count };
  };
  const before = await settle();
  const { twins, ms: first, copiedMs: firstCopied } = await forkAll();
  const grown = (await settle()) - before;
  const [held, shared] = [twins[0]?.bytes ?? 0, twins[0]?.sharedBytes ?? 0];
  for (const twin of twins) await twin.dispose();
  const [later, copiedMs]: [number[], number[]] = [[], []];
  for (let round = 0; round < rounds; round++) {
    const more = await forkAll();
    later.push(...more.ms);
    copiedMs.push(more.copiedMs);
    for (const twin of more.twins) await twin.dispose();
  }
  console.log(`  fork, ms: ${show(spread(later), 3)}; into memory never touched: ${show(spread(first), 3)}`);
  console.log(`    and made: ${show(spread(copiedMs), 3)} each; into memory never touched: ${firstCopied.toFixed(3)}`);
  console.log(`    copies ${kB(copied)} (states, one pending token, the page that is not full)`);
  console.log(
    `    ${count} forks: RSS +${MB(grown)}, ${kB(grown / count)} each; a fork uses ${MB(held)}, of which ${MB(shared)} shared`,
  );
  console.log(`    without sharing: ${MB(count * sequence.length * cacheBytes)} of cache more`);
  return {
    context,
    plannedBytes: memory.total,
    copiedBytes: copied,
    ms: spread(later),
    firstMs: spread(first),
    withCopyMs: spread(copiedMs),
    firstWithCopyMs: firstCopied,
    forks: count,
    grownBytes: grown,
    bytes: held,
    sharedBytes: shared,
    prefixCacheBytes: sequence.length * cacheBytes,
  };
}

async function measureSaves(sequence: Sequence, target: Sequence) {
  const [saveMs, restoreMs, rewindMs]: [number[], number[], number[]] = [[], [], []];
  const delay = monitorEventLoopDelay({ resolution: 1 });
  let bytes = await sequence.save();
  await target.restore(bytes);
  delay.enable();
  for (let round = 0; round < rounds; round++) {
    const start = performance.now();
    bytes = await sequence.save();
    const saved = performance.now();
    await target.restore(bytes);
    const restored = performance.now();
    await target.rewind(1);
    saveMs.push(saved - start);
    restoreMs.push(restored - saved);
    rewindMs.push(performance.now() - restored);
  }
  delay.disable();
  await target.dispose();
  const gapMs = delay.max / 1e6 - 1;
  console.log(
    `  ${MB(bytes.length)} saved: save, ms ${show(spread(saveMs))}; restore ${show(spread(restoreMs))}; rewind(1) ${show(spread(rewindMs), 2)}; longest gap of the event loop ${gapMs.toFixed(1)}`,
  );
  return {
    bytes: bytes.length,
    saveMs: spread(saveMs),
    restoreMs: spread(restoreMs),
    rewindMs: spread(rewindMs),
    gapMs,
  };
}
