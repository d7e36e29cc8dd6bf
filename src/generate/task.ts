import { mismatch } from '../errors.js';
import type { Checkpoint } from '../state/checkpoint.js';
import type { StepKind } from '../state/decoded-tokens.js';
import type { SequenceState } from '../state/sequence-state.js';
import type { Sampler } from './sampling.js';
import type { Rank } from './scheduler-ranks.js';
import { type Draft, maxNodes, type Speculator } from './speculation.js';
import type { StepEntry } from './step-words.js';

/** What a scheduler needs of a native session. Calls take effect in the order in which they are made. */
export interface StepRunner {
  step(
    words: Int32Array,
    want: { ids: boolean; logits: boolean },
  ): Promise<{ ids?: Int32Array; logits?: Float32Array }>;
  copy(slotPairs: Int32Array, pagePairs: Int32Array): Promise<void>;
  /** The state after `room` bytes of the caller's. */
  save(slot: number, pages: Int32Array, room: number): Promise<Uint8Array>;
  restore(bytes: Uint8Array, slot: number, pages: Int32Array): Promise<void>;
  /** The recurrent states of a slot, to go on from later. */
  checkpoint(slot: number): Promise<Checkpoint>;
  resume(checkpoint: Checkpoint, slot: number): Promise<void>;
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
  /** Most prompt tokens of a turn in which others wait for their next token. Default: a chunk, but no more than 64. */
  readonly sharedTurn?: number;
  /** Most requests that may wait. Default: any number. */
  readonly maxQueue?: number;
  /** Whether there are states beside the pages. Default: true. */
  readonly recurrent?: boolean;
  /** Memory for beginnings of prompts that requests may share. Default: 0, which keeps none. */
  readonly prefixCacheBytes?: number;
}

/** Work on one sequence: run its tokens, then choose more until `next` says stop. */
export interface Task {
  readonly state: SequenceState;
  /** Tokens of `state.ids` to run before the task needs to be asked again. */
  target: number;
  /** Most tokens the sequence may come to hold. */
  readonly capacity: number;
  /** Higher goes first. Default: 0. */
  readonly priority?: number;
  /** May go on from a beginning that an earlier prompt has left. Default: false, save for what it has run itself. */
  readonly sharesPrefix?: boolean;
  /** Chooses a token whenever all are run. */
  readonly sampler?: Sampler;
  /** Guesses tokens to be verified together. */
  readonly speculator?: Speculator | undefined;
  /** Gets the logits of tokens [first, first + rows.length / vocab) of the sequence as they come; the same ones again after a preemption. */
  readonly onLogits?: (first: number, logits: Float32Array) => void;
  /** Called with each chosen token, already appended; false ends the task. */
  readonly onToken?: (id: number) => boolean;
  /** Tokens that did not have to be run, because the prefix cache had them. */
  cachedTokens?: number;
}

/** A task's part of the step that is being made. */
export interface Chosen {
  readonly queued: Queued;
  readonly entry: StepEntry;
  /** Tokens of the sequence that were run before. */
  readonly first: number;
  /** Whether tokens are chosen after its rows; else its tokens are all known. */
  readonly live: boolean;
  readonly draft: Draft;
}

export interface Queued {
  readonly task: Task;
  readonly rank: Rank;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  /** Has room for its tokens: goes into steps. */
  admitted: boolean;
  /** Has been admitted at some time. */
  started: boolean;
  /** Lost its pages and runs its tokens again. */
  preempted: boolean;
  /** Turn in which it was last in a step. */
  servedAt: number;
  /** Ended: resolved, or to be rejected with `reason`. */
  ended: boolean;
  /** In a native call that is running: whoever ends it, nobody may touch its sequence before the call has ended. */
  inFlight: boolean;
  /** Its drafter has been asked and has not answered. */
  drafting: boolean;
  draft: Draft | undefined;
  reason: unknown;
}

/** The next tokens of a task that one step can run. */
export interface Piece {
  readonly kind: StepKind;
  /** At most so many. */
  readonly count: number;
  /** Its one token was chosen by the model, and the next one is chosen after it: drafts may follow it. */
  readonly live: boolean;
}

/** Tokens that were chosen and are run once more go as chains that are accepted as a whole. */
export function pieceOf({ state, target, sampler }: Task): Piece | undefined {
  const first = state.processed;
  const left = target - first;
  if (left <= 0) return undefined;
  const { kind, end } = state.decoded.at(first);
  const count = Math.min(left, end - first);
  if (kind === 'prefill') return { kind, count, live: false };
  if (sampler && left === 1) return { kind, count, live: true };
  return { kind, count: Math.min(sampler && count === left ? count - 1 : count, maxNodes), live: false };
}

/** Appends a chosen token; whether the task goes on. */
export function take(task: Task, id: number): boolean {
  if (id < 0)
    throw mismatch('INVALID_ARGUMENT', 'logits', 'a token to choose', 'NaN, or every token forbidden by logitBias');
  appendChosen(task.state, id);
  return (task.onToken?.(id) ?? false) && task.state.ids.length < task.capacity;
}

export function appendChosen(state: SequenceState, id: number): void {
  state.decoded.add(state.ids.length);
  state.ids.push(id);
}

/** Follows the model's own choices through the draft: node 0 is the last token, node i + 1 the draft's token i. */
export function verify({ queued: { task }, entry, draft }: Chosen, choices: Int32Array, stepMs: number): boolean {
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

/** Rejects a task, at once or as soon as the native call that it is in has ended. */
export function end(queued: Queued, reason: unknown): void {
  if (queued.ended) return;
  queued.ended = true;
  queued.reason = reason;
  if (!queued.inFlight) queued.reject(reason);
}
