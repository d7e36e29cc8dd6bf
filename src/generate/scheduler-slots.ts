import { CrosscurrentError } from '../errors.js';
import { compareRanks, type Rank } from './scheduler-ranks.js';

interface Waiter {
  readonly rank: Rank;
  readonly resolve: (slot: number) => void;
  readonly reject: (reason: unknown) => void;
}

/** Places for sequences; who waits for one gets it by rank. */
export class Slots {
  readonly #free: number[];
  readonly #waiters: Waiter[] = [];

  constructor(slots: number) {
    this.#free = Array.from({ length: slots }, (_, i) => slots - 1 - i);
  }

  get free(): number {
    return this.#free.length;
  }

  get waiting(): number {
    return this.#waiters.length;
  }

  take(rank: Rank, signal: AbortSignal | undefined): Promise<number> {
    const slot = this.#free.pop();
    if (slot !== undefined) return Promise.resolve(slot);
    return new Promise((resolve, reject) => {
      const settled = (): void => signal?.removeEventListener('abort', abort);
      const waiter: Waiter = {
        rank,
        resolve: (given) => {
          settled();
          resolve(given);
        },
        reject: (reason) => {
          settled();
          reject(reason);
        },
      };
      const abort = (): void => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        waiter.reject(signal?.reason);
      };
      signal?.addEventListener('abort', abort, { once: true });
      this.#waiters.push(waiter);
    });
  }

  give(slot: number): void {
    const [best] = this.#waiters.toSorted((a, b) => compareRanks(a.rank, b.rank));
    if (!best) {
      this.#free.push(slot);
      return;
    }
    this.#waiters.splice(this.#waiters.indexOf(best), 1);
    best.resolve(slot);
  }

  /** Nobody waits any longer. */
  close(): void {
    for (const waiter of this.#waiters.splice(0))
      waiter.reject(new CrosscurrentError('DISPOSED', 'the model was disposed'));
  }
}
