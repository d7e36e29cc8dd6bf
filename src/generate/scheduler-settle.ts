import type { StepKind } from '../state/decoded-tokens.js';
import { appendChosen, type Chosen, end, take, verify } from './task.js';

export interface StepOutcome {
  readonly ids?: Int32Array;
  readonly logits?: Float32Array;
}

/** Moves the sequences of a step on, gives the tasks their tokens or logits, and resolves those that are done. */
export function settle(kind: StepKind, chosen: readonly Chosen[], { ids, logits }: StepOutcome, stepMs: number): void {
  let row = 0;
  const totalRows = chosen.reduce((sum, { entry }) => sum + entry.rows.length, 0);
  const vocab = logits ? logits.length / totalRows : 0;
  for (const part of chosen) {
    const rows = part.entry.rows.length;
    moveOn(kind, part);
    const { queued, first } = part;
    queued.inFlight = false;
    if (logits && rows > 0) queued.task.onLogits?.(first, logits.subarray(row * vocab, (row + rows) * vocab));
    choose(kind, part, ids?.subarray(row, row + rows), stepMs);
    row += rows;
  }
}

/** A step that failed in the middle has destroyed the states that it touched. */
export function settleFailed(chosen: readonly Chosen[], error: unknown): void {
  for (const { queued } of chosen) {
    queued.task.state.lost = true;
    queued.inFlight = false;
    if (queued.ended) queued.reject(queued.reason);
    else end(queued, error);
  }
}

function moveOn(kind: StepKind, { entry, first, live }: Chosen): void {
  const { state } = entry;
  const count = entry.ids.length;
  state.length = kind === 'prefill' ? first + count : first;
  if (kind === 'prefill') state.accepted = [];
  else state.accepted = live ? [0] : Array.from({ length: count }, (_, node) => node);
}

function choose(kind: StepKind, part: Chosen, choices: Int32Array | undefined, stepMs: number): void {
  const { queued } = part;
  const { task } = queued;
  const { state } = task;
  const isChosen = choices !== undefined && choices.length > 0;
  if (queued.ended) {
    // the last token has been run: without the one chosen after it the sequence could not go on
    if (isChosen) appendChosen(state, choices[0] as number);
    queued.reject(queued.reason);
    return;
  }
  let more = state.processed < task.target;
  if (isChosen) {
    try {
      more = kind === 'prefill' ? take(task, choices[0] as number) : verify(part, choices, stepMs);
    } catch (error) {
      end(queued, error);
      return;
    }
    task.target = state.ids.length;
  }
  if (more) return;
  queued.ended = true;
  queued.resolve();
}
