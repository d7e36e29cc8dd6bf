import { mismatch } from '../errors.js';
import type { SequenceState } from '../state/sequence-state.js';
import type { Sampler } from './sampling.js';
import type { Draft, Speculator } from './speculation.js';
import type { StepEntry } from './step-words.js';

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
export interface Chosen {
  readonly queued: Queued;
  readonly entry: StepEntry;
  /** Tokens of the sequence that were run before. */
  readonly first: number;
  readonly draft: Draft;
}

export const noDraft: Draft = { ids: [] };

export interface Queued {
  readonly task: Task;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
  admitted: boolean;
  /** Ended: resolved, or to be rejected with `reason`. */
  ended: boolean;
  /** In the step that is running: whoever ends it, nobody may touch its sequence before the step has. */
  inFlight: boolean;
  /** Its drafter has been asked and has not answered. */
  drafting: boolean;
  draft: Draft | undefined;
  reason: unknown;
}

/** Appends a chosen token; whether the task goes on. */
export function take(task: Task, id: number): boolean {
  if (id < 0)
    throw mismatch('INVALID_ARGUMENT', 'logits', 'a token to choose', 'NaN, or every token forbidden by logitBias');
  task.state.ids.push(id);
  return (task.onToken?.(id) ?? false) && task.state.ids.length < task.capacity;
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

/** Rejects a task, at once or as soon as the step that it is in has ended. */
export function end(queued: Queued, reason: unknown): void {
  if (queued.ended) return;
  queued.ended = true;
  queued.reason = reason;
  if (!queued.inFlight) queued.reject(reason);
}
