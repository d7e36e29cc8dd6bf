import { setTimeout } from 'node:timers/promises';
import { CrosscurrentError, mismatch } from '../errors.js';
import type { PrefixCacheStats } from '../state/prefix-cache.js';
import type { SequenceState } from '../state/sequence-state.js';
import { turn } from '../turn.js';
import { SchedulerLoop } from './scheduler-loop.js';
import { Memory } from './scheduler-memory.js';
import { PrefixSharing } from './scheduler-prefix.js';
import { checkPriority, Ranks } from './scheduler-ranks.js';
import { Slots } from './scheduler-slots.js';
import { end, type Queued, type SchedulerLimits, type StepRunner, type Task } from './task.js';

export interface SchedulerStats {
  /** Requests in steps, and requests that wait for a place or for room. */
  readonly running: number;
  readonly waiting: number;
  /** Times that a task lost its pages to others and ran its tokens again. */
  readonly preemptions: number;
  /** Absent where no beginnings of prompts are kept. */
  readonly prefixCache?: PrefixCacheStats;
}

const noPages = new Int32Array(0);

/**
 * Runs the tasks of one model together: steps of prompt tokens and steps of generated tokens in turn, each with as many sequences as it holds (docs/scheduling.md).
 *
 * A task starts when there is room for the tokens that it has, and takes more as it grows. Where there is none, the task of lowest rank gives its pages back and later runs its tokens again.
 */
export class Scheduler {
  readonly limits: SchedulerLimits;
  readonly #runner: StepRunner;
  readonly #memory: Memory;
  readonly #prefix: PrefixSharing | undefined;
  readonly #slots: Slots;
  readonly #ranks = new Ranks();
  readonly #loop: SchedulerLoop;
  #disposed = false;
  /** Native calls on single sequences, and those of them that wait for pages. */
  #calls = 0;
  #waitingCalls = 0;

  constructor(runner: StepRunner, limits: SchedulerLimits) {
    this.limits = limits;
    this.#runner = runner;
    this.#memory = new Memory(limits);
    this.#slots = new Slots(limits.slots);
    const { prefixCacheBytes = 0 } = limits;
    if (prefixCacheBytes > 0) {
      this.#prefix = new PrefixSharing(runner, this.#memory.pool, limits, prefixCacheBytes);
      this.#memory.cache = this.#prefix.cache;
    }
    this.#loop = new SchedulerLoop({
      limits,
      runner,
      memory: this.#memory,
      ranks: this.#ranks,
      prefix: this.#prefix,
    });
  }

  get stats(): SchedulerStats {
    const running = this.#loop.queue.filter(({ admitted, ended }) => admitted && !ended).length;
    const cache = this.#prefix?.cache.stats;
    const { preemptions } = this.#memory;
    return { running, waiting: this.#waiting, preemptions, ...(cache ? { prefixCache: cache } : {}) };
  }

  /** A new sequence; waits for a free slot. @throws CrosscurrentError QUEUE_FULL */
  async open(signal?: AbortSignal, priority?: number): Promise<SequenceState> {
    signal?.throwIfAborted();
    this.#checkOpen();
    const { maxQueue = Number.POSITIVE_INFINITY } = this.limits;
    const waiting = this.#waiting;
    if ((this.#slots.free === 0 || waiting > 0) && waiting >= maxQueue)
      throw mismatch('QUEUE_FULL', 'requests', `fewer than ${maxQueue} that wait (maxQueue)`, waiting);
    const slot = await this.#slots.take(this.#ranks.of(checkPriority(priority)), signal);
    this.#checkOpen();
    return this.#memory.open(slot);
  }

  close(state: SequenceState): void {
    state.dispose();
    this.#slots.give(state.slot);
    this.#loop.wake();
  }

  /** A copy of `state` that shares its settled pages. */
  async fork(state: SequenceState, signal?: AbortSignal): Promise<SequenceState> {
    const twin = await this.open(signal);
    try {
      await this.replace(twin, state);
      return twin;
    } catch (error) {
      this.close(twin);
      throw error;
    }
  }

  /** Makes `twin` equal to `state`, whatever it was. */
  replace(twin: SequenceState, state: SequenceState): Promise<void> {
    return this.#pinned([twin, state], async () => {
      twin.reset();
      await this.#withPages(
        () => state.openPages,
        () => this.#share(state, twin),
      );
    });
  }

  /** Nobody needs to wait for the copy: it runs before any later call on either sequence, or on the pages they then give back. */
  #share(state: SequenceState, twin: SequenceState): void {
    const pagePairs = Int32Array.from(state.shareWith(twin));
    if (state.processed === 0) return;
    this.#runner.copy(Int32Array.of(state.slot, twin.slot), pagePairs).catch(() => {
      twin.lost = true;
    });
  }

  /** The native state after `room` bytes of the caller's. */
  save(state: SequenceState, room: number): Promise<Uint8Array> {
    return this.#pinned([state], () => {
      state.trim(state.span);
      return this.#runner.save(state.slot, Int32Array.from(state.pages), room);
    });
  }

  /** Fills an empty sequence from saved bytes; `tokens` is what its `span` was. */
  restore(state: SequenceState, bytes: Uint8Array, tokens: number): Promise<void> {
    return this.#pinned([state], async () => {
      await this.#withPages(
        () => state.pagesMissing(tokens),
        () => state.grow(tokens),
      );
      state.hadRoom = true;
      await this.#runner.restore(bytes, state.slot, Int32Array.from(state.pages));
    });
  }

  /**
   * Drops the last `n` tokens of a sequence. Of the last step's tokens, and in models without recurrent state, that costs nothing; else the tokens after the nearest
   * checkpoint of the prefix cache are run again. Where `signal` ends that, the rest is run when the sequence is next used.
   */
  async rewind(state: SequenceState, n: number, signal?: AbortSignal): Promise<void> {
    this.#checkUsable(state);
    const left = state.ids.length - n;
    const run = Math.max(left - 1, 0); // the last token is run when something follows it
    if (n > 0) state.truncate(left);
    if (state.processed <= run) return;
    if (run >= state.length) {
      state.accepted = state.accepted.slice(0, run - state.length);
      state.trim(state.span);
    } else if (run === 0 || (this.limits.recurrent ?? true)) {
      state.drop();
      await this.run({ state, target: run, capacity: left, sharesPrefix: true }, signal);
    } else {
      state.shorten(run);
      if (state.writesShared) await this.#pinned([state], () => this.#ownLastPage(state));
    }
  }

  /** Copies the last page, which others hold too and which will be written to. Where no page is free, the sequence is run again when it is next used. */
  async #ownLastPage(state: SequenceState): Promise<void> {
    try {
      const pair = await this.#withPages(
        () => 1,
        () => state.ownLastPage(),
      );
      await this.#runner.copy(noPages, Int32Array.from(pair));
    } catch (error) {
      state.drop();
      if (!(error instanceof CrosscurrentError && error.code === 'OUT_OF_MEMORY')) throw error;
    }
  }

  /** Resolves when the task has ended by itself; rejects with the signal's reason when it is aborted, once no running step uses its sequence. */
  async run(task: Task, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#checkOpen();
    const { state } = task;
    this.#checkUsable(state);
    if (task.capacity > this.limits.context)
      throw mismatch('CONTEXT_OVERFLOW', 'tokens', `at most ${this.limits.context} (the context)`, task.capacity);
    const pages = this.#memory.pagesOf(task.capacity);
    if (pages > this.limits.pages) throw this.#loop.noRoom(pages);
    if (task.target <= state.processed) return;
    const { promise, resolve, reject } = withResolvers();
    const queued: Queued = {
      task,
      rank: this.#ranks.of(task.priority),
      resolve,
      reject,
      admitted: false,
      started: false,
      preempted: false,
      servedAt: this.#ranks.turn,
      ended: false,
      inFlight: false,
      drafting: false,
      draft: undefined,
      reason: undefined,
    };
    const abort = (): void => end(queued, signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    state.tasks++;
    this.#loop.add(queued);
    try {
      await promise;
    } finally {
      signal?.removeEventListener('abort', abort);
      state.tasks--;
      state.usedAt = this.#ranks.turn;
      this.#loop.wake();
    }
  }

  /** Ends everything that waits or runs, and returns when no step is running. Idempotent. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    for (const queued of this.#loop.queue)
      end(queued, new CrosscurrentError('DISPOSED', 'the model was disposed while generating'));
    this.#slots.close();
    await this.#loop.stopped;
    await this.#prefix?.dispose();
  }

  /** @internal Recounts the pages. @throws CrosscurrentError INTERNAL where something was lost or is held twice */
  audit(): void {
    this.#memory.audit();
  }

  #checkOpen(): void {
    if (this.#disposed) throw new CrosscurrentError('DISPOSED', 'the model was disposed');
  }

  #checkUsable({ lost }: SequenceState): void {
    if (lost) throw new CrosscurrentError('INVALID_STATE', 'sequence: its state was lost in a failed step');
  }

  /** Requests that wait for a place, or for room to start. */
  get #waiting(): number {
    return this.#slots.waiting + this.#loop.queue.filter(({ started, ended }) => !started && !ended).length;
  }

  /** Runs `work` while nobody may take the sequences' pages. */
  async #pinned<T>(states: readonly SequenceState[], work: () => Promise<T>): Promise<T> {
    this.#calls++;
    for (const state of states) state.pins++;
    try {
      return await work();
    } finally {
      // the caller has what it asked for, and is not done with it: a turn later it is
      void turn().then(() => {
        this.#calls--;
        for (const state of states) state.pins--;
        this.#loop.wake();
      });
    }
  }

  /** Waits until so many pages are free, and has them taken before anybody else can. @throws CrosscurrentError OUT_OF_MEMORY, DISPOSED */
  async #withPages<T>(count: () => number, take: () => T): Promise<T> {
    this.#waitingCalls++;
    try {
      for (;;) {
        this.#checkOpen();
        if (this.#memory.makeRoom(count(), this.#loop.queue, { takesHeld: true })) return take();
        if (this.#loop.isInCall) await this.#loop.callEnded();
        else if (this.#calls > this.#waitingCalls) await setTimeout(1);
        else throw this.#loop.noRoom(count());
      }
    } finally {
      this.#waitingCalls--;
    }
  }
}

function withResolvers(): { promise: Promise<void>; resolve: () => void; reject: (error: unknown) => void } {
  let resolve!: () => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
