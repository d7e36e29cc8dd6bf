// Requests that come, end, are aborted, forked and rewound at random, in little room: every answer is the one that the request gives alone, every page and place comes
// back, and nobody waits for ever. Most of it on a runner that hashes instead of computing (scheduler-fake.ts).
import { setImmediate as turn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { CrosscurrentError } from '../../src/errors.js';
import { Sampler } from '../../src/generate/sampling.js';
import { Scheduler } from '../../src/generate/scheduler.js';
import { type Draft, Speculator } from '../../src/generate/speculation.js';
import type { SchedulerLimits } from '../../src/generate/task.js';
import type { SequenceState } from '../../src/state/sequence-state.js';
import { continued, FakeRunner, fakeVocab, type Known } from './scheduler-fake.js';

/** Events of other seeds have found what those of the first have not. */
const seeds = [20261125, 2, 4];
const runs = 50;
const eventsARun = 200;
const context = 64;

const families = [1, 2, 3].map((salt) => Array.from({ length: context }, (_, i) => (i * 31 * salt + salt) % fakeVocab));

type Event =
  | { kind: 'request'; family: number; shared: number; own: number; tokens: number; priority: number; drafts: number }
  | { kind: 'abort'; which: number }
  | { kind: 'sequence'; family: number; shared: number; own: number }
  | { kind: 'feed' | 'generate' | 'rewind'; which: number; count: number }
  | { kind: 'fork' | 'save' | 'close'; which: number }
  | { kind: 'wait'; turns: number };

const small = fc.nat(7);
const events: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('request' as const),
      family: fc.nat(2),
      shared: fc.nat(36),
      own: fc.integer({ min: 1, max: 9 }),
      tokens: fc.integer({ min: 1, max: 18 }),
      priority: fc.integer({ min: -1, max: 1 }),
      drafts: fc.nat(4),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('abort' as const), which: small }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant('sequence' as const),
      family: fc.nat(2),
      shared: fc.nat(20),
      own: fc.integer({ min: 1, max: 5 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constantFrom('feed' as const, 'generate' as const, 'rewind' as const),
      which: small,
      count: fc.integer({ min: 1, max: 7 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constantFrom('fork' as const, 'save' as const, 'close' as const), which: small }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('wait' as const), turns: fc.nat(12) }) },
);

const setups = fc.record({
  paged: fc.boolean(),
  recurrent: fc.boolean(),
  /** From just enough for one sequence to enough for all. */
  pages: fc.constantFrom(16, 20, 40),
  prefixCacheBytes: fc.constantFrom(0, 3000, 1e6),
  slots: fc.integer({ min: 3, max: 7 }),
  rows: fc.constantFrom(4, 16),
});

/** A sequence of the test: what it should hold, and what is being done to it. */
interface Held {
  state: SequenceState;
  tokens: Known[];
  work: Promise<void>;
  closed: boolean;
}

class Driver {
  readonly runner: FakeRunner;
  readonly scheduler: Scheduler;
  readonly #pending = new Set<Promise<void>>();
  readonly #requests: { controller: AbortController }[] = [];
  readonly #held: Held[] = [];
  finished = 0;
  aborted = 0;
  refused = 0;
  #next = 0;

  constructor(setup: typeof setups extends fc.Arbitrary<infer T> ? T : never) {
    const kinds = { paged: setup.paged || !setup.recurrent, recurrent: setup.recurrent };
    const sizes = { pages: kinds.paged ? setup.pages : 0, pageTokens: 4, slots: setup.slots };
    this.runner = new FakeRunner(kinds, sizes);
    const limits: SchedulerLimits = {
      ...sizes,
      t: 24,
      seqs: Math.min(setup.slots, 5),
      rows: setup.rows,
      context,
      chunk: 8,
      sharedTurn: 8,
      recurrent: kinds.recurrent,
      prefixCacheBytes: setup.prefixCacheBytes,
    };
    this.scheduler = new Scheduler(this.runner, limits);
  }

  async handle(event: Event): Promise<void> {
    if (event.kind === 'wait') for (let i = 0; i < event.turns; i++) await turn();
    else if (event.kind === 'request') this.#track(this.#request(event));
    else if (event.kind === 'sequence') this.#track(this.#sequence(event));
    else if (event.kind === 'abort') this.#requests.at(event.which - 8)?.controller.abort(stop);
    else this.#change(event);
    this.scheduler.audit();
  }

  /** Everything ends by itself, and everything has come back. */
  async finish(): Promise<void> {
    await this.#settled();
    for (const held of this.#held) if (!held.closed) this.scheduler.close(held.state);
    const { limits } = this.scheduler;
    const all = await Promise.all(Array.from({ length: limits.slots }, () => this.scheduler.open()));
    expect(new Set(all.map(({ slot }) => slot)).size).toBe(limits.slots);
    for (const state of all) this.scheduler.close(state);
    const { running, waiting, prefixCache } = this.scheduler.stats;
    expect({ running, waiting }).toEqual({ running: 0, waiting: 0 });
    this.scheduler.audit();
    await this.scheduler.dispose();
    this.scheduler.audit();
    expect(this.scheduler.stats.prefixCache?.pages ?? 0).toBe(0);
    expect(this.runner.checkpoints).toBe(0);
    expect(prefixCache?.bytes ?? 0).toBeLessThanOrEqual(limits.prefixCacheBytes ?? 0);
  }

  async #settled(): Promise<void> {
    for (let turns = 0; this.#pending.size > 0; turns++) {
      if (turns === 100_000)
        throw new Error(`still at work: ${JSON.stringify(this.scheduler.stats)}, ${this.runner.steps} steps`);
      await Promise.race([...this.#pending, turn()]);
    }
  }

  #track(work: Promise<void>): void {
    const tracked = work.finally(() => this.#pending.delete(tracked));
    tracked.catch(() => {}); // seen in #settled
    this.#pending.add(tracked);
  }

  async #request(event: Event & { kind: 'request' }): Promise<void> {
    const number = this.#next++;
    const prompt = promptOf(event, number);
    const expected = continued(given(prompt), event.tokens, number, this.runner.kinds);
    const controller = new AbortController();
    this.#requests.push({ controller });
    const ids: number[] = [];
    let state: SequenceState | undefined;
    try {
      state = await this.scheduler.open(controller.signal, event.priority);
      state.ids.push(...prompt);
      const task = {
        state,
        target: prompt.length,
        capacity: prompt.length + event.tokens,
        priority: event.priority,
        sharesPrefix: number % 5 > 0,
        sampler: new Sampler({ seed: number, temperature: 1 }, fakeVocab),
        speculator: event.drafts > 0 ? speculator(event.drafts, prompt.length, expected) : undefined,
        onToken: (id: number) => ids.push(id) < event.tokens,
      };
      await this.scheduler.run(task, controller.signal);
      expect(ids, `request ${number}`).toEqual(expected);
      this.finished++;
    } catch (error) {
      if (error !== stop) return this.#refused(error, ids.length === 0);
      this.aborted++;
      expect(ids).toEqual(expected.slice(0, ids.length));
    } finally {
      if (state) this.scheduler.close(state);
    }
  }

  async #sequence(event: Event & { kind: 'sequence' }): Promise<void> {
    // places are left for the requests
    if (this.#held.filter(({ closed }) => !closed).length >= this.scheduler.limits.slots - 2) return;
    const held: Held = { state: undefined as never, tokens: [], work: Promise.resolve(), closed: false };
    this.#held.push(held);
    held.work = (async () => {
      held.state = await this.scheduler.open();
      const prompt = promptOf(event, this.#next++);
      await this.#feed(held, prompt);
    })();
    await held.work;
  }

  /** Held sequences keep their pages from those who never had any. */
  #refused(error: unknown, isNew: boolean): void {
    if ((error as CrosscurrentError).code !== 'OUT_OF_MEMORY' || !isNew) throw error;
    expect(this.#held.some(({ state }) => state?.pages.length > 0)).toBe(true);
    this.refused++;
  }

  #change(event: Event & { which: number }): void {
    const open = this.#held.filter(({ closed }) => !closed);
    const held = open[event.which % Math.max(open.length, 1)];
    if (!held) return;
    if (event.kind === 'close') held.closed = true;
    held.work = held.work.then(() => this.#apply(held, event));
    this.#track(held.work);
  }

  async #apply(held: Held, event: Event): Promise<void> {
    const { state, tokens } = held;
    if (event.kind === 'close') return this.scheduler.close(state);
    if (event.kind === 'feed' && tokens.length + event.count < context) {
      await this.#feed(held, families[0]!.slice(0, event.count));
    } else if (event.kind === 'generate' && tokens.length > 0 && tokens.length + event.count < context) {
      const number = this.#next++;
      const expected = continued(tokens, event.count, number, this.runner.kinds);
      const ids: number[] = [];
      await this.scheduler.run({
        state,
        target: tokens.length,
        capacity: tokens.length + event.count,
        sampler: new Sampler({ seed: number }, fakeVocab),
        onToken: (id) => ids.push(id) < event.count,
      });
      expect(ids).toEqual(expected);
      tokens.push(...expected.map((id) => ({ id, isDecoded: true })));
    } else if (event.kind === 'rewind') {
      const count = Math.min(event.count, tokens.length);
      await this.scheduler.rewind(state, count);
      tokens.length -= count;
    } else if (event.kind === 'fork') {
      if (this.#held.filter(({ closed }) => !closed).length >= this.scheduler.limits.slots - 2) return;
      const twin: Held = { state: undefined as never, tokens: [...tokens], work: Promise.resolve(), closed: false };
      this.#held.push(twin);
      twin.work = this.scheduler.fork(state).then((forked) => {
        twin.state = forked;
      });
      await twin.work;
    } else if (event.kind === 'save' && state.processed > 0) {
      const { ids, length, accepted, decoded, span } = state;
      const bounds = [...decoded.bounds];
      const all = [...ids];
      const bytes = await this.scheduler.save(state, 0);
      state.reset();
      await this.scheduler.restore(state, bytes, span);
      state.ids.push(...all);
      state.decoded.bounds = bounds;
      state.length = length;
      state.accepted = accepted;
    }
    expect(state.ids).toEqual(tokens.map(({ id }) => id));
  }

  async #feed(held: Held, ids: readonly number[]): Promise<void> {
    const { state, tokens } = held;
    state.ids.push(...ids);
    tokens.push(...given(ids));
    const isNew = !state.hadRoom;
    try {
      await this.scheduler.run({ state, target: state.ids.length - 1, capacity: state.ids.length });
    } catch (error) {
      this.#refused(error, isNew);
      state.truncate(0);
      tokens.length = 0;
    }
  }
}

const stop = new Error('no longer wanted');
const given = (ids: readonly number[]): Known[] => ids.map((id) => ({ id, isDecoded: false }));

const promptOf = (
  { family, shared, own }: { family: number; shared: number; own: number },
  number: number,
): number[] => [
  ...families[family]!.slice(0, shared),
  ...Array.from({ length: own }, (_, i) => (number * 7 + i) % fakeVocab),
];

/** Right, wrong or in between; chains and trees; at once or later. */
function speculator(kind: number, promptLength: number, expected: readonly number[]): Speculator {
  const propose = async (ids: readonly number[], limit: number): Promise<Draft> => {
    const at = ids.length - promptLength;
    const right = expected.slice(at, at + Math.min(limit, 4));
    if (kind === 1) return { ids: right };
    if (kind === 2) return { ids: right.map((id, i) => (i === 1 ? (id + 1) % fakeVocab : id)) };
    for (let i = 0; i < at % 5; i++) await turn();
    // each right token after a wrong sibling
    const draft: number[] = [];
    const parents: number[] = [];
    for (const [i, id] of right.entries()) {
      const parent = i === 0 ? -1 : 2 * i - 1;
      draft.push((id + 1) % fakeVocab, kind === 3 ? id : (id + i) % fakeVocab);
      parents.push(parent, parent);
    }
    return { ids: draft.slice(0, limit), parents: parents.slice(0, limit) };
  };
  return new Speculator({ length: 8, propose: ({ ids, limit }) => propose(ids, limit) }, fakeVocab);
}

describe('random requests on a fake runner', () => {
  it.each(seeds)(`${runs * eventsARun} events of seed %i`, { timeout: 240_000 }, async (seed) => {
    let [finished, aborted, preemptions, hits] = [0, 0, 0, 0];
    await fc.assert(
      fc.asyncProperty(
        setups,
        fc.array(events, { minLength: eventsARun, maxLength: eventsARun }),
        async (setup, all) => {
          const driver = new Driver(setup);
          for (const event of all) await driver.handle(event);
          preemptions += driver.scheduler.stats.preemptions;
          hits += driver.scheduler.stats.prefixCache?.hits ?? 0;
          await driver.finish();
          finished += driver.finished;
          aborted += driver.aborted;
        },
      ),
      { seed, numRuns: runs, endOnFailure: true },
    );
    // the test has met what it is there for
    for (const count of [finished, aborted, preemptions, hits]) expect(count).toBeGreaterThan(runs);
  });
});
