import type { StepKind } from '../state/decoded-tokens.js';
import { turnsALevel } from './scheduler-ranks.js';
import { noDraft } from './speculation.js';
import { type Chosen, pieceOf, type Queued, type SchedulerLimits } from './task.js';

/** Most prompt tokens of a turn in which others wait for their next token: what bounds the time between two tokens. */
const sharedTurn = 64;

/**
 * Who is served first when a step cannot hold all: the higher priority, among equals the one that has waited longest; a level of priority is worth
 * `turnsALevel` turns of waiting.
 */
export function byUrgency(turn: number): (a: Queued, b: Queued) => number {
  const urgency = ({ rank, servedAt }: Queued): number => rank.priority * turnsALevel + turn - servedAt;
  return (a, b) => urgency(b) - urgency(a) || a.rank.number - b.rank.number;
}

export interface BatchOptions {
  readonly kind: StepKind;
  readonly limits: SchedulerLimits;
  /** Others wait for their next token: known tokens, a prompt's or a replay's, must not take long. */
  readonly isShared: boolean;
  /** Makes the sequence have pages for so many tokens, a draft among them; false when that would cost others theirs. */
  readonly makesRoom: (queued: Queued, tokens: number) => boolean;
  /** Where the prompt piece [first, end) should end. */
  readonly cut: (queued: Queued, first: number, end: number) => number;
}

/** Fills a step with pieces of the candidates, in their order. */
export function makeBatch(candidates: readonly Queued[], options: BatchOptions): Chosen[] {
  const { kind, limits, isShared } = options;
  const chosen: Chosen[] = [];
  let [tokens, rows] = [0, 0];
  let known = isShared ? Math.min(limits.sharedTurn ?? Math.min(limits.chunk, sharedTurn), limits.t) : limits.t;
  const border = Math.min(limits.chunk, known);
  let wantsLogits: boolean | undefined;
  let samples: boolean | undefined;
  for (const queued of candidates) {
    if (chosen.length === limits.seqs || tokens === limits.t) break;
    const { task } = queued;
    const { state } = task;
    const piece = pieceOf(task);
    if (piece?.kind !== kind || (piece.live && queued.drafting)) continue;
    wantsLogits ??= task.onLogits !== undefined;
    samples ??= task.sampler !== undefined;
    if ((task.onLogits !== undefined) !== wantsLogits) continue;
    if (wantsLogits && (task.sampler !== undefined) !== samples) continue; // of a step's rows, all are sampled or none

    const first = state.processed;
    let draft = (piece.live && queued.draft) || noDraft;
    let count = piece.count;
    if (!piece.live) {
      const room = Math.min(known, limits.t - tokens);
      if (kind === 'prefill') count = options.cut(queued, first, first + chunk(first, count, room, border)) - first;
      else count = Math.min(count, room);
      if (wantsLogits) count = Math.min(count, limits.rows - rows);
    }
    if (count <= 0) continue;
    const isFull = (): boolean =>
      piece.live && (tokens + 1 + draft.ids.length > limits.t || rows + 1 + draft.ids.length > limits.rows);
    // a draft that was made for a smaller batch than this one has become
    if (isFull() && chosen.length === 0) draft = noDraft;
    if (isFull()) continue;
    if (state.pagesMissing(first + count) > 0) continue;
    if (draft.ids.length > 0 && !options.makesRoom(queued, first + count + draft.ids.length)) draft = noDraft;

    const total = count + draft.ids.length;
    const choosesLast = kind === 'prefill' && task.sampler !== undefined && first + count === task.target;
    const wanted =
      wantsLogits || piece.live ? Array.from({ length: total }, (_, i) => i) : choosesLast ? [count - 1] : [];
    if (rows + wanted.length > limits.rows) continue;
    chosen.push({
      queued,
      first,
      live: piece.live,
      draft,
      entry: {
        state,
        ids: [...state.ids.slice(first, first + count), ...draft.ids],
        parents: draft.parents && [-1, ...draft.parents.map((parent) => parent + 1)],
        rows: wanted,
        sampler: wanted.length > 0 ? task.sampler : undefined,
      },
    });
    tokens += total;
    rows += wanted.length;
    if (!piece.live) known -= count;
  }
  return chosen;
}

/** Tokens of a prompt's next piece: all that are left, or up to the last border that the room reaches. */
function chunk(first: number, left: number, room: number, border: number): number {
  if (left <= room) return left;
  return Math.max(Math.floor((first + room) / border) * border - first, 0);
}
