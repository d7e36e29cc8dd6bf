// How long anybody waits: on a fake runner, where a step takes a turn of the event loop.
import { describe, expect, it } from 'vitest';
import { Sampler } from '../../src/generate/sampling.js';
import { Scheduler } from '../../src/generate/scheduler.js';
import { turnsALevel } from '../../src/generate/scheduler-ranks.js';
import type { SchedulerLimits } from '../../src/generate/task.js';
import { FakeRunner, fakeVocab } from './scheduler-fake.js';

const sizes = { pages: 64, pageTokens: 4, slots: 8 };
const limits: SchedulerLimits = { ...sizes, t: 64, seqs: 8, rows: 8, context: 200, chunk: 32, sharedTurn: 16 };

class Bench {
  readonly runner = new FakeRunner({ paged: true, recurrent: true }, sizes);
  readonly scheduler: Scheduler;
  /** Each step: its prompt tokens, and for which requests it chose tokens. */
  readonly steps: { prompt: number; ids: number }[] = [];

  constructor(change: Partial<SchedulerLimits> = {}) {
    this.scheduler = new Scheduler(this.runner, { ...limits, ...change });
    const { runner, steps } = this;
    const step = runner.step.bind(runner);
    runner.step = async (words, want) => {
      const before = runner.prefillTokens;
      const result = await step(words, want);
      steps.push({ prompt: runner.prefillTokens - before, ids: result.ids?.length ?? 0 });
      return result;
    };
  }

  /** Runs a request; the numbers of the steps that gave its tokens. */
  async request(prompt: number, tokens: number, priority = 0, signal?: AbortSignal): Promise<number[]> {
    const state = await this.scheduler.open(signal, priority);
    for (let i = 0; i < prompt; i++) state.ids.push((i * 7 + prompt) % fakeVocab);
    const at: number[] = [];
    const onToken = (): boolean => at.push(this.steps.length) < tokens;
    const sampler = new Sampler({ seed: prompt }, fakeVocab);
    const capacity = prompt + tokens;
    const task = { state, target: prompt, capacity, priority, sampler, onToken };
    await this.scheduler.run(task, signal).finally(() => this.scheduler.close(state));
    return at;
  }
}

describe('between two tokens', () => {
  it('long prompts take no more than their share of a turn, alone the whole step', async () => {
    const bench = new Bench();
    const talking = bench.request(5, 60);
    const prompts = [170, 150, 160].map((length) => bench.request(length - 100, 2));
    const at = await talking;
    await Promise.all(prompts);
    const gaps = at.slice(1).map((step, i) => step - (at[i] as number));
    expect(Math.max(...gaps), 'steps from token to token').toBeLessThanOrEqual(2);
    const beside = bench.steps.slice(at[0], at.at(-1));
    expect(Math.max(...beside.map(({ prompt }) => prompt))).toBe(16);
    bench.steps.length = 0;
    await bench.request(150, 2);
    expect(bench.steps.map(({ prompt }) => prompt)).toEqual([64, 64, 22, 0]);
  });

  it('more of them than a step has rows: each in its turn', async () => {
    const bench = new Bench({ rows: 3 });
    const all = await Promise.all(Array.from({ length: 8 }, (_, i) => bench.request(4 + i, 20)));
    for (const at of all) {
      const gaps = at.slice(1).map((step, i) => step - (at[i] as number));
      expect(Math.max(...gaps)).toBeLessThanOrEqual(5);
    }
  });

  it('prompts of one priority come on side by side, those of a higher one first', async () => {
    const bench = new Bench();
    const talking = bench.request(3, 80);
    const done: string[] = [];
    const named = (name: string, length: number, priority: number): Promise<unknown> =>
      bench.request(length, 1, priority).then(() => done.push(name));
    await Promise.all([named('long', 60, 0), named('short', 20, 0), named('urgent', 50, 1), talking]);
    expect(done).toEqual(['urgent', 'short', 'long']);
  });
});

describe('nobody starves', () => {
  /** Requests of a higher priority that follow each other for ever; stopped by the abort. */
  const stream = async (bench: Bench, signal: AbortSignal, prompt: number): Promise<void> => {
    while (!signal.aborted) await bench.request(prompt, 30, 1, signal).catch(() => {});
  };

  it.each([
    ['for a place', { slots: 3 }, 3, 20],
    ['for room in the cache', { pages: 24 }, 5, 40],
  ] as const)('who waits %s behind an endless stream of a higher priority', async (_, change, streams, prompt) => {
    const bench = new Bench(change);
    const controller = new AbortController();
    const endless = Array.from({ length: streams }, (_, i) => stream(bench, controller.signal, prompt + i));
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    const start = bench.steps.length;
    const at = await bench.request(45, 20);
    controller.abort();
    await Promise.all(endless);
    // two steps a turn at most; then those that had come before it end
    expect((at.at(-1) as number) - start).toBeLessThan(2 * turnsALevel + 600);
    bench.scheduler.audit();
  });
});
