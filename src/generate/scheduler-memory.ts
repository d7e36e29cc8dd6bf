import { CrosscurrentError } from '../errors.js';
import { PagePool } from '../state/pages.js';
import type { PrefixCache } from '../state/prefix-cache.js';
import { SequenceState } from '../state/sequence-state.js';
import { compareRanks, type Rank } from './scheduler-ranks.js';
import type { Queued, SchedulerLimits } from './task.js';

/** Whom pages may be taken from. */
export interface RoomOptions {
  /** Tasks that rank lower than this one; every task where absent, none where `null`. */
  readonly rank?: Rank | null;
  /** Sequences that are held and not in use, too; a request that never had room does not take theirs. */
  readonly takesHeld: boolean;
  /** Tasks of any rank that wait for their drafter, too: it may itself be waiting for this one. */
  readonly takesIdle?: boolean;
}

/** Who has which kv pages, and who gives them up when there are too few. */
export class Memory {
  readonly pool: PagePool;
  readonly states = new Set<SequenceState>();
  cache: PrefixCache | undefined;
  /** Tasks that lost their pages and ran their tokens again. */
  preemptions = 0;
  readonly #pageTokens: number;

  constructor({ pages, pageTokens }: SchedulerLimits) {
    this.pool = new PagePool(pages);
    this.#pageTokens = pages > 0 ? pageTokens : 0;
  }

  open(slot: number): SequenceState {
    return new SequenceState(slot, this.pool, this.#pageTokens, this.states);
  }

  /** Pages that so many tokens fill. */
  pagesOf(tokens: number): number {
    return this.#pageTokens === 0 ? 0 : Math.ceil(tokens / this.#pageTokens);
  }

  /** Whether a native call uses some sequence that no task is at work on: its pages may come back soon. */
  get hasPinned(): boolean {
    for (const { pins } of this.states) if (pins > 0) return true;
    return false;
  }

  /**
   * Makes `count` pages free, or leaves everybody what they have where it cannot: first of those that only the prefix cache holds, then of the task of lowest rank, which
   * is to be run again, then of held sequences, which are run again when they are next used.
   */
  makeRoom(count: number, queue: readonly Queued[], options: RoomOptions): boolean {
    if (this.pool.free >= count) return true;
    const victims = this.#victims(queue, options);
    const held = options.takesHeld ? this.#heldStates() : [];
    if (count > this.#pagesWithout([...victims.map(({ task }) => task.state), ...held])) return false;
    while (this.pool.free < count) {
      if (this.cache?.evictPages(count - this.pool.free)) continue;
      const victim = victims.shift();
      if (victim) this.#preempt(victim);
      else held.shift()?.drop();
    }
    return true;
  }

  /** Recounts who holds what. @throws Error where the pool has counted otherwise */
  audit(): void {
    const holders = new Uint32Array(this.pool.size);
    const held = [...[...this.states].flatMap(({ pages }) => pages), ...(this.cache?.pages ?? [])];
    for (const page of held) holders[page] = (holders[page] as number) + 1;
    holders.forEach((count, page) => {
      if (count === this.pool.holders(page)) return;
      throw new CrosscurrentError('INTERNAL', `kv page ${page}: ${count} hold it, ${this.pool.holders(page)} counted`);
    });
    const free = holders.filter((count) => count === 0).length;
    if (free !== this.pool.free)
      throw new CrosscurrentError('INTERNAL', `kv pages: ${free} free, ${this.pool.free} counted`);
  }

  /** Tasks that may be preempted, the lowest first. */
  #victims(queue: readonly Queued[], { rank, takesIdle = false }: RoomOptions): Queued[] {
    if (rank === null) return [];
    const mayGo = ({ ended, inFlight, task: { state } }: Queued): boolean =>
      !ended && !inFlight && state.pins === 0 && state.pages.length > 0;
    const isLower = (queued: Queued): boolean =>
      !rank || compareRanks(queued.rank, rank) > 0 || (takesIdle && queued.drafting && queued.rank !== rank);
    return queue.filter((queued) => mayGo(queued) && isLower(queued)).sort((a, b) => compareRanks(b.rank, a.rank));
  }

  #preempt(victim: Queued): void {
    victim.admitted = false;
    victim.preempted = true;
    victim.task.state.drop();
    this.preemptions++;
  }

  /** Sequences that nobody is at work on, the least recently used first. */
  #heldStates(): SequenceState[] {
    return [...this.states]
      .filter(({ tasks, pins, pages, lost }) => tasks === 0 && pins === 0 && pages.length > 0 && !lost)
      .sort((a, b) => a.usedAt - b.usedAt);
  }

  /** Pages that are free when the cache and these have given up theirs. */
  #pagesWithout(givers: readonly SequenceState[]): number {
    const others = new Set(this.states);
    for (const giver of givers) others.delete(giver);
    return this.pool.size - new Set([...others].flatMap(({ pages }) => pages)).size;
  }
}
