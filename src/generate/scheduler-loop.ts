import { mismatch } from '../errors.js';
import type { Checkpoint } from '../state/checkpoint.js';
import type { StepKind } from '../state/decoded-tokens.js';
import { turn } from '../turn.js';
import { byUrgency, makeBatch } from './scheduler-batch.js';
import type { Memory } from './scheduler-memory.js';
import type { PrefixSharing } from './scheduler-prefix.js';
import { compareRanks, type Ranks } from './scheduler-ranks.js';
import { settle, settleFailed } from './scheduler-settle.js';
import type { Draft } from './speculation.js';
import { stepWords } from './step-words.js';
import { end, pieceOf, type Queued, type SchedulerLimits, type StepRunner } from './task.js';

export interface LoopParts {
  readonly limits: SchedulerLimits;
  readonly runner: StepRunner;
  readonly memory: Memory;
  readonly ranks: Ranks;
  readonly prefix: PrefixSharing | undefined;
}

/** Runs while there are tasks: each turn starts those that have room, then makes a step of prompt tokens and one of generated tokens. */
export class SchedulerLoop {
  readonly #parts: LoopParts;
  #queue: Queued[] = [];
  #isRunning = false;
  /** Nobody could go on in the last turn. */
  #isStuck = false;
  #end: Promise<void> = Promise.resolve();
  /** The native call that the loop waits for. */
  #call: Promise<unknown> = Promise.resolve();

  constructor(parts: LoopParts) {
    this.#parts = parts;
  }

  get queue(): readonly Queued[] {
    return this.#queue;
  }

  add(queued: Queued): void {
    this.#queue.push(queued);
    this.wake();
  }

  /** Something has changed: a task came or went, pages came back, a drafter has answered. */
  wake(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#end = this.#run().catch((error: unknown) => {
      this.#isRunning = false;
      for (const queued of this.#queue) end(queued, error);
    });
  }

  /** When it has come to a stop. */
  get stopped(): Promise<void> {
    return this.#end;
  }

  get isInCall(): boolean {
    return this.#queue.some(({ inFlight }) => inFlight);
  }

  /** Waits until what comes after the running native call has happened. */
  async callEnded(): Promise<void> {
    await this.#call.catch(() => {});
    await turn();
  }

  noRoom(pages: number): Error {
    const { limits, memory } = this.#parts;
    const free = memory.pool.free * limits.pageTokens;
    return mismatch('OUT_OF_MEMORY', 'kv pages', `room for ${pages * limits.pageTokens} more tokens`, free);
  }

  async #run(): Promise<void> {
    const { ranks } = this.#parts;
    await turn(); // what is asked for in the same turn starts together
    for (this.#isStuck = false; ; ) {
      ranks.turn++;
      if (await this.#admit()) await turn();
      let progressed = await this.#prefill();
      if (this.#draft()) await turn(); // long enough for drafters that only promise what they know
      progressed = (await this.#decode()) || progressed;
      this.#queue = this.#queue.filter(({ ended }) => !ended);
      if (progressed) {
        this.#isStuck = false;
      } else if (this.#queue.length === 0 || (this.#isStuck && this.#isAwaited())) {
        this.#isRunning = false;
        return;
      } else if (this.#isStuck) {
        const [first] = byRank(this.#queue) as [Queued];
        end(first, this.noRoom(first.task.state.pagesMissing(first.task.target)));
      } else {
        this.#isStuck = true;
        await turn(); // what has just ended gives its room back first
      }
    }
  }

  /** Whether something goes on that will wake the loop. */
  #isAwaited(): boolean {
    return this.#parts.memory.hasPinned || this.#queue.some(({ drafting }) => drafting);
  }

  #ready(): Queued[] {
    return this.#queue.filter(({ admitted, ended }) => admitted && !ended);
  }

  /** Those whose next token is to be chosen. */
  #live(): Queued[] {
    return this.#ready().filter(({ task }) => pieceOf(task)?.live);
  }

  /** By rank, and nobody passes another as long as anybody can go on: a large request would else be passed by small ones for ever. Whether any waited. */
  async #admit(): Promise<boolean> {
    const waiting = this.#queue.filter(({ admitted, ended }) => !admitted && !ended);
    for (const queued of byRank(waiting)) if (!queued.ended && !(await this.#start(queued)) && !this.#isStuck) break;
    return waiting.length > 0;
  }

  /** Gives a task room for the tokens that it has, if there is a page more, so that it is not preempted at once. */
  async #start(queued: Queued): Promise<boolean> {
    const { memory, prefix } = this.#parts;
    const { task, rank } = queued;
    const { state } = task;
    const isNew = state.processed === 0;
    const resume = isNew ? prefix?.adopt(queued) : undefined;
    const missing = state.pagesMissing(state.ids.length);
    const isCautious = missing > 0 && !this.#isStuck && this.#ready().length > 0;
    const spare = isCautious ? Math.min(state.pagesMissing(task.capacity) - missing, 1) : 0;
    const hasRoom =
      memory.makeRoom(missing, this.#queue, { rank, takesHeld: state.hadRoom, takesIdle: this.#isStuck }) &&
      memory.makeRoom(missing + spare, this.#queue, { rank: null, takesHeld: false });
    if (!hasRoom) {
      resume?.release();
      if (isNew) state.drop();
      return false;
    }
    state.grow(state.ids.length);
    queued.admitted = true;
    queued.started = true;
    state.hadRoom = true;
    if (resume) await this.#resume(queued, resume, state.length);
    return true;
  }

  /** Makes a task's slot go on from the states after the `tokens` tokens that it has taken over, and releases them. */
  async #resume(queued: Queued, states: Checkpoint, tokens: number): Promise<void> {
    const { prefix, runner } = this.#parts;
    const { task } = queued;
    prefix?.count(queued, tokens);
    queued.inFlight = true;
    try {
      this.#call = states.bytes === 0 ? Promise.resolve() : runner.resume(states, task.state.slot);
      await this.#call;
    } catch (error) {
      task.state.drop();
      end(queued, error);
    }
    states.release();
    queued.inFlight = false;
    if (queued.ended) return queued.reject(queued.reason);
    if (task.state.processed < task.target) return;
    queued.ended = true; // nothing is left to be run
    queued.resolve();
  }

  async #prefill(): Promise<boolean> {
    const { prefix } = this.#parts;
    if (prefix)
      for (const queued of this.#ready()) {
        const first = queued.task.state.processed;
        const isPrompt = queued.task.sharesPrefix && pieceOf(queued.task)?.kind === 'prefill';
        const resume = isPrompt ? prefix.adopt(queued) : undefined;
        // another has run it meanwhile
        if (resume) await this.#resume(queued, resume, queued.task.state.processed - first);
      }
    return this.#step('prefill', this.#ready(), this.#live().length > 0);
  }

  async #decode(): Promise<boolean> {
    const { memory } = this.#parts;
    for (const queued of byRank(this.#ready())) {
      const { rank, drafting, task } = queued;
      const missing = task.state.pagesMissing(task.state.ids.length);
      // one that was ready when this began may just have been preempted
      if (missing === 0 || drafting || !queued.admitted) continue;
      if (memory.makeRoom(missing, this.#queue, { rank, takesHeld: true, takesIdle: this.#isStuck }))
        task.state.grow(task.state.ids.length);
    }
    return this.#step('decode', this.#ready(), this.#live().length > 0);
  }

  /** Asks the drafters of tasks without a draft. A task is left out of steps until its drafter has answered. Whether any has not yet. */
  #draft(): boolean {
    const { limits } = this.#parts;
    const live = this.#live();
    const share = Math.floor(Math.min(limits.t, limits.rows) / Math.min(Math.max(live.length, 1), limits.seqs)) - 1;
    let waits = false;
    for (const queued of live) {
      const { state, capacity, speculator } = queued.task;
      if (!speculator || queued.drafting || queued.draft) continue;
      try {
        const draft = speculator.propose(state.ids, Math.min(capacity - state.ids.length - 1, share));
        if ('then' in draft) {
          waits = true;
          this.#await(queued, draft);
        } else {
          queued.draft = draft;
        }
      } catch (error) {
        end(queued, error);
      }
    }
    return waits;
  }

  #await(queued: Queued, proposed: Promise<Draft>): void {
    queued.drafting = true;
    proposed
      .then(
        (draft) => {
          queued.draft = draft;
        },
        (error: unknown) => end(queued, error),
      )
      .finally(() => {
        queued.drafting = false;
        this.wake();
      });
  }

  /** Runs one step of such pieces, if there are any. */
  async #step(kind: StepKind, candidates: Queued[], isShared: boolean): Promise<boolean> {
    const { limits, runner, memory, ranks, prefix } = this.#parts;
    const chosen = makeBatch(candidates.sort(byUrgency(ranks.turn)), {
      kind,
      limits,
      isShared,
      makesRoom: ({ task: { state } }, tokens) => {
        const missing = state.pagesMissing(tokens);
        if (!memory.makeRoom(missing, this.#queue, { rank: null, takesHeld: false })) return false;
        state.grow(tokens);
        return true;
      },
      cut: ({ task }, first, end) => prefix?.cut(task, first, end) ?? end,
    });
    if (chosen.length === 0) return false;
    for (const { queued, live } of chosen) {
      queued.inFlight = true;
      queued.servedAt = ranks.turn;
      if (live) queued.draft = undefined;
    }
    const entries = chosen.map(({ entry }) => entry);
    const rows = entries.reduce((sum, entry) => sum + entry.rows.length, 0);
    const logits = rows > 0 && chosen.some(({ queued }) => queued.task.onLogits !== undefined);
    try {
      const start = performance.now();
      const ids = entries.some(({ sampler }) => sampler !== undefined);
      const run = () => runner.step(stepWords(kind, entries), { ids, logits });
      // Many tokens to lay out, and at first cold code: a turn of the event loop of its own
      const call = kind === 'prefill' ? turn().then(run) : run();
      this.#call = call;
      settle(kind, chosen, await call, performance.now() - start);
      if (kind === 'prefill') for (const { queued } of chosen) prefix?.leave(queued.task);
    } catch (error) {
      settleFailed(chosen, error);
    }
    return true;
  }
}

const byRank = (queue: readonly Queued[]): Queued[] => queue.toSorted((a, b) => compareRanks(a.rank, b.rank));
