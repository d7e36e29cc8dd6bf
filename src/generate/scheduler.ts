import { CrosscurrentError, mismatch } from '../errors.js';
import { PagePool } from '../state/pages.js';
import { SequenceState } from '../state/sequence-state.js';
import type { Sampler } from './sampling.js';
import type { Draft, Speculator } from './speculation.js';
import { type StepEntry, stepWords } from './step-words.js';

/** What a scheduler needs of a native session. */
export interface StepRunner {
  step(
    words: Int32Array,
    want: { ids: boolean; logits: boolean },
  ): Promise<{ ids?: Int32Array; logits?: Float32Array }>;
  copy(slotPairs: Int32Array, pagePairs: Int32Array): Promise<void>;
  save(slot: number, pages: Int32Array): Promise<Uint8Array>;
  restore(bytes: Uint8Array, slot: number, pages: Int32Array): Promise<void>;
}

export interface SchedulerLimits {
  /** Tokens, sequences and logit rows of one step. */
  readonly t: number;
  readonly seqs: number;
  readonly rows: number;
  /** Sequences that can hold state. */
  readonly slots: number;
  /** Kv pages of all sequences; 0 for models without attention. */
  readonly pages: number;
  readonly pageTokens: number;
  /** Most tokens of a sequence. */
  readonly context: number;
  /** Prompts are cut at multiples of this many tokens. */
  readonly chunk: number;
}

/** Work on one sequence: run its tokens, then choose more until `next` says stop. */
export interface Task {
  readonly state: SequenceState;
  /** Tokens of `state.ids` to run before the task needs to be asked again. */
  target: number;
  /** Most tokens the sequence may come to hold: what room is promised for. */
  readonly capacity: number;
  /** Chooses a token whenever all are run. */
  readonly sampler?: Sampler;
  /** Guesses tokens to be verified together. */
  readonly speculator?: Speculator | undefined;
  /** Gets the logits of tokens [first, first + rows.length / vocab) of the sequence as they come. */
  readonly onLogits?: (first: number, logits: Float32Array) => void;
  /** Called with each chosen token, already appended; false ends the task. */
  readonly onToken?: (id: number) => boolean;
}

/** A task's part of the step that is being made. */
interface Chosen {
  readonly queued: Queued;
  readonly entry: StepEntry;
  /** Tokens of the sequence that were run before. */
  readonly first: number;
  readonly draft: Draft;
}

const noDraft: Draft = { ids: [] };

interface Queued {
  readonly task: Task;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  admitted: boolean;
  /** Ended: resolved, or to be rejected with `reason`. */
  ended: boolean;
  /** In the step that is running: whoever ends it, nobody may touch its sequence before the step has. */
  inFlight: boolean;
  reason: unknown;
}

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
    const queued: Queued = { task, resolve, reject, admitted: false, ended: false, inFlight: false, reason: undefined };
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
      this.#slotWaiters.splice(this.#slotWaiters.indexOf(resolve), 1);
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
      this.#admit();
      const ready = this.#queue.filter((queued) => queued.admitted);
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
      const decoding = ready.filter((queued) => !queued.ended && behind(queued) === 1 && generates(queued.task));
      const drafts = await this.#propose(decoding);
      await this.#step(
        'decode',
        decoding.filter((queued) => !queued.ended),
        drafts,
      );
    }
  }

  /** What the tasks' drafters guess, all asked at once. A task whose drafter fails is rejected. */
  async #propose(decoding: readonly Queued[]): Promise<ReadonlyMap<Queued, Draft>> {
    const drafts = new Map<Queued, Draft>();
    const share =
      Math.floor(Math.min(this.limits.t, this.limits.rows) / Math.min(decoding.length, this.limits.seqs)) - 1;
    await Promise.all(
      decoding.map(async (queued) => {
        const { state, capacity, speculator } = queued.task;
        if (!speculator) return;
        queued.inFlight = true;
        try {
          drafts.set(queued, await speculator.propose(state.ids, Math.min(capacity - state.ids.length - 1, share)));
        } catch (error) {
          end(queued, error);
        }
        queued.inFlight = false;
        if (queued.ended) queued.reject(queued.reason);
      }),
    );
    return drafts;
  }

  /** In order, so that a large request is not passed by small ones for ever. */
  #admit(): void {
    for (const queued of this.#queue) {
      if (queued.admitted) continue;
      const { state, capacity } = queued.task;
      if (!state.reserve(capacity)) {
        if (this.#queue.some((other) => other.admitted)) return;
        end(queued, this.#noRoom(capacity));
        continue;
      }
      queued.admitted = true;
    }
    this.#queue = this.#queue.filter((queued) => !queued.ended);
  }

  async #step(
    kind: 'prefill' | 'decode',
    candidates: readonly Queued[],
    drafts: ReadonlyMap<Queued, Draft> = new Map(),
  ): Promise<void> {
    const chosen: Chosen[] = [];
    let [tokens, rows] = [0, 0];
    const wantsLogits = candidates[0]?.task.onLogits !== undefined;
    for (const queued of candidates) {
      if (chosen.length === this.limits.seqs || tokens === this.limits.t) break;
      const { task } = queued;
      if ((task.onLogits !== undefined) !== wantsLogits) continue;
      const first = task.state.processed;
      const draft = drafts.get(queued) ?? noDraft;
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
    for (const queued of served) queued.inFlight = true;
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

/** Appends a chosen token; whether the task goes on. */
function take(task: Task, id: number): boolean {
  task.state.ids.push(id);
  return (task.onToken?.(id) ?? false) && task.state.ids.length < task.capacity;
}

/** Follows the model's own choices through the draft: node 0 is the last token, node i + 1 the draft's token i. */
function verify({ queued: { task }, entry, draft }: Chosen, choices: Int32Array, stepMs: number): boolean {
  const accepted = [0];
  let more = true;
  for (let node = 0; ; ) {
    const id = choices[node] as number;
    more = take(task, id);
    if (!more) break;
    const parent = (index: number): number => entry.parents?.[index] ?? index - 1;
    const next = entry.ids.findIndex((token, index) => index > node && token === id && parent(index) === node);
    if (next < 0) break;
    accepted.push(next);
    node = next;
  }
  task.state.accepted = accepted;
  task.speculator?.settle({ draft, accepted: accepted.slice(1).map((node) => node - 1), chosen: [...choices] }, stepMs);
  return more;
}

/** Rejects a task, at once or as soon as the step that it is in has ended. */
function end(queued: Queued, reason: unknown): void {
  if (queued.ended) return;
  queued.ended = true;
  queued.reason = reason;
  if (!queued.inFlight) queued.reject(reason);
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
