import { CrosscurrentError, mismatch } from '../errors.js';
import { PagePool } from '../state/pages.js';
import { SequenceState } from '../state/sequence-state.js';
import { turn } from '../turn.js';
import { stepWords } from './step-words.js';
import {
  type Chosen,
  end,
  noDraft,
  type Queued,
  type SchedulerLimits,
  type StepRunner,
  type Task,
  take,
  verify,
} from './task.js';

/**
 * Runs the tasks of one model together: steps of prompt tokens and steps of generated tokens in turn, each with as many sequences as it holds.
 * A task waits until there is room for all the tokens it may come to hold, so none is ever stopped half-way for lack of memory.
 */
export class Scheduler {
  readonly limits: SchedulerLimits;
  readonly #runner: StepRunner;
  readonly #pool: PagePool;
  readonly #freeSlots: number[];
  readonly #slotWaiters: (() => void)[] = [];
  #queue: Queued[] = [];
  #running = false;
  #loopEnd: Promise<void> = Promise.resolve();
  #disposed = false;

  constructor(runner: StepRunner, limits: SchedulerLimits) {
    this.limits = limits;
    this.#runner = runner;
    this.#pool = new PagePool(limits.pages);
    this.#freeSlots = Array.from({ length: limits.slots }, (_, i) => limits.slots - 1 - i);
  }

  /** A new sequence; waits for a free slot. */
  async open(signal?: AbortSignal): Promise<SequenceState> {
    signal?.throwIfAborted();
    while (this.#freeSlots.length === 0) await this.#slotFreed(signal);
    this.#checkOpen();
    return new SequenceState(
      this.#freeSlots.pop() as number,
      this.#pool,
      this.limits.pages > 0 ? this.limits.pageTokens : 0,
    );
  }

  close(state: SequenceState): void {
    state.dispose();
    this.#freeSlots.push(state.slot);
    this.#slotWaiters.shift()?.();
    this.#wake();
  }

  /** A copy of `state` that shares its settled pages. */
  async fork(state: SequenceState): Promise<SequenceState> {
    const twin = await this.open();
    try {
      await this.replace(twin, state);
      return twin;
    } catch (error) {
      this.close(twin);
      throw error;
    }
  }

  /** Makes `twin` equal to `state`, whatever it was. */
  async replace(twin: SequenceState, state: SequenceState): Promise<void> {
    twin.reset();
    if (!twin.reserve(state.ids.length)) throw this.#noRoom(state.ids.length);
    const pagePairs = state.shareWith(twin);
    if (state.processed > 0) await this.#runner.copy(Int32Array.of(state.slot, twin.slot), Int32Array.from(pagePairs));
  }

  save(state: SequenceState): Promise<Uint8Array> {
    return this.#runner.save(state.slot, Int32Array.from(state.pages));
  }

  /** Fills an empty sequence from saved bytes, for `tokens` processed tokens. */
  async restore(state: SequenceState, bytes: Uint8Array, tokens: number): Promise<void> {
    if (!state.reserve(tokens)) throw this.#noRoom(tokens);
    state.grow(tokens);
    await this.#runner.restore(bytes, state.slot, Int32Array.from(state.pages));
  }

  /** Resolves when the task has ended by itself; rejects with the signal's reason when it is aborted, once no running step uses its sequence. */
  async run(task: Task, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    this.#checkOpen();
    if (task.state.lost) throw new CrosscurrentError('INVALID_STATE', 'sequence: its state was lost in a failed step');
    if (task.capacity > this.limits.context)
      throw mismatch('CONTEXT_OVERFLOW', 'tokens', `at most ${this.limits.context} (the context)`, task.capacity);
    if (task.target <= task.state.processed) return;
    const { promise, resolve, reject } = withResolvers();
    const queued: Queued = {
      task,
      resolve,
      reject,
      admitted: false,
      ended: false,
      inFlight: false,
      drafting: false,
      draft: undefined,
      reason: undefined,
    };
    const abort = (): void => end(queued, signal?.reason);
    signal?.addEventListener('abort', abort, { once: true });
    this.#queue.push(queued);
    this.#wake();
    try {
      await promise;
    } finally {
      signal?.removeEventListener('abort', abort);
      task.state.unreserve();
      this.#wake();
    }
  }

  /** Ends everything that waits or runs, and returns when no step is running. Idempotent. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    for (const queued of this.#queue)
      end(queued, new CrosscurrentError('DISPOSED', 'the model was disposed while generating'));
    for (const wake of this.#slotWaiters.splice(0)) wake();
    await this.#loopEnd;
  }

  #checkOpen(): void {
    if (this.#disposed) throw new CrosscurrentError('DISPOSED', 'the model was disposed');
  }

  #noRoom(tokens: number): CrosscurrentError {
    return mismatch(
      'OUT_OF_MEMORY',
      'kv pages',
      `room for ${tokens} more tokens`,
      this.#pool.available * this.limits.pageTokens,
    );
  }

  #slotFreed(signal: AbortSignal | undefined): Promise<void> {
    const { promise, resolve, reject } = withResolvers();
    const abort = (): void => {
      const place = this.#slotWaiters.indexOf(resolve);
      if (place >= 0) this.#slotWaiters.splice(place, 1); // else just woken
      reject(signal?.reason);
    };
    signal?.addEventListener('abort', abort, { once: true });
    this.#slotWaiters.push(resolve);
    return promise.finally(() => signal?.removeEventListener('abort', abort));
  }

  #wake(): void {
    if (this.#running) return;
    this.#running = true;
    this.#loopEnd = this.#loop();
  }

  async #loop(): Promise<void> {
    for (;;) {
      this.#queue = this.#queue.filter((queued) => !queued.ended);
      this.#admit('may wait');
      if (this.#queue.length > 0 && !this.#queue.some((queued) => queued.admitted)) {
        await turn(); // what has just ended gives its room back first
        this.#admit('last chance');
      }
      const ready = this.#queue.filter((queued) => queued.admitted && !queued.drafting);
      if (ready.length === 0) {
        this.#running = false;
        return;
      }
      const behind = ({ task }: Queued): number => task.target - task.state.processed;
      const fresh = ({ task }: Queued): boolean => task.state.ids.length - task.state.processed > 1 || !generates(task);
      await this.#step(
        'prefill',
        ready.filter((queued) => !queued.ended && behind(queued) > 0 && fresh(queued)),
      );
      const decoding = this.#queue.filter(
        (queued) => queued.admitted && !queued.ended && behind(queued) === 1 && generates(queued.task),
      );
      if (this.#draft(decoding)) await turn(); // long enough for drafters that have no model
      await this.#step(
        'decode',
        decoding.filter((queued) => !queued.ended && !queued.drafting),
      );
    }
  }

  /** Asks the drafters of tasks without a draft. A task is left out of steps until its drafter has answered. Whether any was asked. */
  #draft(decoding: readonly Queued[]): boolean {
    const nodes = Math.min(this.limits.t, this.limits.rows);
    const share = Math.floor(nodes / Math.min(Math.max(decoding.length, 1), this.limits.seqs)) - 1;
    let asked = false;
    for (const queued of decoding) {
      const { state, capacity, speculator } = queued.task;
      if (!speculator || queued.drafting || queued.draft) continue;
      asked = true;
      queued.drafting = true;
      speculator
        .propose(state.ids, Math.min(capacity - state.ids.length - 1, share))
        .then(
          (draft) => {
            queued.draft = draft;
          },
          (error: unknown) => end(queued, error),
        )
        .finally(() => {
          queued.drafting = false;
          this.#wake();
        });
    }
    return asked;
  }

  /** In order, so that a large request is not passed by small ones for ever. */
  #admit(chance: 'may wait' | 'last chance'): void {
    for (const queued of this.#queue) {
      if (queued.admitted || queued.ended) continue;
      const { state, capacity } = queued.task;
      if (!state.reserve(capacity)) {
        if (chance === 'may wait' || this.#queue.some((other) => other.admitted)) break;
        end(queued, this.#noRoom(capacity));
        continue;
      }
      queued.admitted = true;
    }
    this.#queue = this.#queue.filter((queued) => !queued.ended);
  }

  async #step(kind: 'prefill' | 'decode', candidates: readonly Queued[]): Promise<void> {
    const chosen: Chosen[] = [];
    let [tokens, rows] = [0, 0];
    const wantsLogits = candidates[0]?.task.onLogits !== undefined;
    for (const queued of candidates) {
      if (chosen.length === this.limits.seqs || tokens === this.limits.t) break;
      const { task } = queued;
      if ((task.onLogits !== undefined) !== wantsLogits) continue;
      const first = task.state.processed;
      const draft = queued.draft ?? noDraft;
      let count = kind === 'decode' ? 1 + draft.ids.length : this.#chunk(first, task.target, this.limits.t - tokens);
      if (wantsLogits) count = Math.min(count, this.limits.rows - rows);
      const ends = kind === 'decode' || first + count === task.target;
      const all = wantsLogits || kind === 'decode';
      const wanted = all ? Array.from({ length: count }, (_, i) => i) : ends && task.sampler ? [count - 1] : [];
      if (count === 0 || tokens + count > this.limits.t || rows + wanted.length > this.limits.rows) continue;
      task.state.grow(first + count);
      const parents = draft.parents && [-1, ...draft.parents.map((parent) => parent + 1)];
      const ids = [...task.state.ids.slice(first, kind === 'decode' ? first + 1 : first + count), ...draft.ids];
      chosen.push({
        queued,
        first,
        draft,
        entry: { state: task.state, ids, parents, rows: wanted, sampler: task.sampler },
      });
      tokens += count;
      rows += wanted.length;
    }
    if (chosen.length === 0) return;
    // those served go to the end of the line
    const served = new Set(chosen.map(({ queued }) => queued));
    this.#queue = [...this.#queue.filter((queued) => !served.has(queued)), ...served];
    for (const queued of served) {
      queued.inFlight = true;
      queued.draft = undefined;
    }
    try {
      const words = stepWords(
        kind,
        chosen.map(({ entry }) => entry),
      );
      const start = performance.now();
      const result = await this.#runner.step(words, { ids: rows > 0 && !wantsLogits, logits: wantsLogits });
      this.#settle(kind, chosen, result, performance.now() - start);
    } catch (error) {
      for (const { queued } of chosen) {
        queued.task.state.lost = true;
        queued.inFlight = false;
        if (queued.ended) queued.reject(queued.reason);
        else end(queued, error);
      }
    }
  }

  /** Tokens of the next prompt chunk: up to the next multiple of `chunk`, or more whole chunks where the budget allows. */
  #chunk(first: number, target: number, budget: number): number {
    if (target - first <= budget) return target - first;
    const end = Math.floor((first + budget) / this.limits.chunk) * this.limits.chunk;
    return end > first ? end - first : 0;
  }

  #settle(
    kind: 'prefill' | 'decode',
    chosen: readonly Chosen[],
    result: { ids?: Int32Array; logits?: Float32Array },
    stepMs: number,
  ): void {
    let row = 0;
    const totalRows = chosen.reduce((sum, { entry }) => sum + entry.rows.length, 0);
    const vocab = result.logits ? result.logits.length / totalRows : 0;
    for (const part of chosen) {
      const { queued, entry, first } = part;
      const { task } = queued;
      const { state } = task;
      state.length = kind === 'prefill' ? first + entry.ids.length : first;
      state.accepted = kind === 'prefill' ? [] : [0];
      const rows = entry.rows.length;
      if (result.logits && rows > 0) task.onLogits?.(first, result.logits.subarray(row * vocab, (row + rows) * vocab));
      const choices = result.ids?.subarray(row, row + rows);
      row += rows;
      queued.inFlight = false;
      if (queued.ended) {
        // the last token has been run: without the one chosen after it the sequence could not go on
        if (choices?.length) state.ids.push(choices[0] as number);
        queued.reject(queued.reason);
        continue;
      }
      let more = state.processed < task.target;
      if (choices && choices.length > 0) {
        try {
          more = kind === 'prefill' ? take(task, choices[0] as number) : verify(part, choices, stepMs);
        } catch (error) {
          end(queued, error);
          continue;
        }
        task.target = state.ids.length;
      }
      if (more) continue;
      queued.ended = true;
      queued.resolve();
    }
  }
}

/** Whether the one token still to run was chosen by the task itself. */
const generates = (task: Task): boolean => task.sampler !== undefined;

function withResolvers(): { promise: Promise<void>; resolve: () => void; reject: (error: unknown) => void } {
  let resolve!: () => void;
  let reject!: (error: unknown) => void;
  const promise = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
