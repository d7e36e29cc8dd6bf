import { mismatch } from '../errors.js';

/** Turns of the scheduler that one level of priority is worth. */
export const turnsALevel = 256;
const maxPriority = 1000;

/** A place in the order of those who want something; it never changes, so that two requests never take from each other in turn. */
export interface Rank {
  readonly priority: number;
  readonly score: number;
  readonly number: number;
}

/** Negative when `a` comes before `b`. */
export const compareRanks = (a: Rank, b: Rank): number => b.score - a.score || a.number - b.number;

/**
 * Orders requests by priority and by when they came: one that came `turnsALevel` turns earlier is as good as one of a level more. So nobody waits for ever: those who come late
 * enough rank behind, whatever their priority.
 */
export class Ranks {
  /** Counts the turns of the scheduler. */
  turn = 0;
  #next = 0;

  of(priority = 0): Rank {
    return { priority, score: priority * turnsALevel - this.turn, number: this.#next++ };
  }
}

export function checkPriority(value: number | undefined): number {
  if (value === undefined) return 0;
  if (!Number.isInteger(value) || Math.abs(value) > maxPriority)
    throw mismatch('INVALID_ARGUMENT', 'priority', `a whole number, -${maxPriority}..${maxPriority}`, String(value));
  return value;
}
