/**
 * What one step costs the JavaScript thread: building its words, and the native call, which checks and copies them and queues the step. A step of a program
 * that computes next to nothing, awaited, adds the way to the engine thread and back.
 */
import { Bench } from 'tinybench';
import { Sampler } from '../src/generate/sampling.js';
import { stepWords } from '../src/generate/step-words.js';
import { PagePool } from '../src/state/pages.js';
import { SequenceState } from '../src/state/sequence-state.js';
import { open, stepOf, tinyModel } from '../test/binding/support.js';
import { describeMachine, printMachine, saveResult } from './lib/machine.js';

const usualPageTokens = 32;

/** A greedy decode step of `sequences` sequences of `tokens` tokens. */
function decodeEntries(sequences: number, tokens: number) {
  const pool = new PagePool((sequences * tokens) / usualPageTokens + sequences);
  return Array.from({ length: sequences }, (_, slot) => {
    const state = new SequenceState(slot, pool, usualPageTokens);
    state.grow(tokens);
    for (let i = 0; i < tokens; i++) state.ids.push(i);
    state.length = tokens - 2;
    state.accepted = [0];
    return { state, ids: [7], rows: [0], sampler: new Sampler({}, 1000) };
  });
}

export async function main(args: string[]): Promise<void> {
  const facts = await describeMachine(`npm run bench -- boundary ${args.join(' ')}`.trim());
  printMachine(facts);
  const { session } = await open(await tinyModel());
  const words = stepOf({ ids: [1] });
  let running: Promise<unknown> | undefined;
  const bench = new Bench({ time: 1000, warmupTime: 200 });
  for (const [sequences, tokens] of [
    [1, 512],
    [8, 512],
    [1, 4096],
  ] as const) {
    const entries = decodeEntries(sequences, tokens);
    bench.add(`words of a decode step, ${sequences} x ${tokens} tokens`, () => {
      stepWords('decode', entries);
    });
  }
  bench.add(
    'the call of a step',
    () => {
      running = session.step(words, { ids: true });
    },
    { async: false, afterEach: async () => void (await running) },
  );
  bench.add('a step of one token, 32 wide, awaited', async () => {
    await session.step(words, { ids: true });
  });
  await bench.run();
  const results = bench.tasks.flatMap((task) => {
    const { result } = task;
    if (!('latency' in result)) return [];
    const { p50, p75, p99, samplesCount } = result.latency;
    return [{ name: task.name, medianUs: 1000 * p50, p75Us: 1000 * p75, p99Us: 1000 * p99, samples: samplesCount }];
  });
  for (const { name, medianUs, p75Us, p99Us } of results)
    console.log(
      `  ${name.padEnd(48)}${medianUs.toFixed(1).padStart(8)} µs median, p75 ${p75Us.toFixed(1)}, p99 ${p99Us.toFixed(1)}`,
    );
  console.log(`\n${saveResult('boundary', facts, { results })}`);
  session.close();
}
