import { mismatch } from '../errors.js';
import type { PagePool } from './pages.js';

/**
 * Where a sequence stands, in tokens and in native memory. Its tokens are `ids`; native code has run the first `processed` of them:
 * `length` are committed and `accepted` name the nodes of the last decode step to be committed by the next one.
 */
export class SequenceState {
  readonly slot: number;
  readonly ids: number[] = [];
  readonly pages: number[] = [];
  length = 0;
  accepted: readonly number[] = [];
  /** Set when a failed step destroyed the native state. */
  lost = false;
  #reservedPages = 0;
  readonly #pool: PagePool;
  readonly #pageTokens: number;

  constructor(slot: number, pool: PagePool, pageTokens: number) {
    this.slot = slot;
    this.#pool = pool;
    this.#pageTokens = pageTokens;
  }

  get processed(): number {
    return this.length + this.accepted.length;
  }

  /** Pages that must still be promised before `tokens` tokens fit. */
  pagesMissing(tokens: number): number {
    if (this.#pageTokens === 0) return 0;
    return Math.max(Math.ceil(tokens / this.#pageTokens) - this.pages.length - this.#reservedPages, 0);
  }

  /** Promises room for `tokens` tokens in all; false when the pool cannot. */
  reserve(tokens: number): boolean {
    const missing = this.pagesMissing(tokens);
    if (!this.#pool.reserve(missing)) return false;
    this.#reservedPages += missing;
    return true;
  }

  /** Gives back what was promised and not used. */
  unreserve(): void {
    this.#pool.unreserve(this.#reservedPages);
    this.#reservedPages = 0;
  }

  /** Makes the first `tokens` tokens have pages, out of the promise. */
  grow(tokens: number): void {
    if (this.#pageTokens === 0) return;
    while (this.pages.length * this.#pageTokens < tokens) {
      this.pages.push(this.#pool.take());
      this.#reservedPages--;
    }
  }

  /**
   * Makes `twin` equal to this: shares the pages that no step will write again, takes new ones for the rest.
   * Returns the pages to be copied, as from-to pairs. `twin` must have room promised for `ids.length` tokens.
   */
  shareWith(twin: SequenceState): number[] {
    if (twin.ids.length > 0) throw mismatch('INTERNAL', 'fork', 'an empty sequence', twin.ids.length);
    const settled = this.#pageTokens === 0 ? 0 : Math.floor(this.length / this.#pageTokens);
    const pairs: number[] = [];
    twin.#pool.unreserve(Math.min(settled, twin.#reservedPages));
    twin.#reservedPages -= Math.min(settled, twin.#reservedPages);
    this.pages.forEach((page, i) => {
      if (i < settled) {
        this.#pool.share(page);
        twin.pages.push(page);
      } else {
        twin.grow((i + 1) * this.#pageTokens);
        pairs.push(page, twin.pages[i] as number);
      }
    });
    for (const id of this.ids) twin.ids.push(id);
    twin.length = this.length;
    twin.accepted = this.accepted;
    return pairs;
  }

  /** Forgets every token and gives every page back; the slot stays. */
  reset(): void {
    this.dispose();
    this.ids.length = 0;
    this.length = 0;
    this.accepted = [];
  }

  /** Gives every page back. The slot is the owner's affair. */
  dispose(): void {
    for (const page of this.pages) this.#pool.release(page);
    this.pages.length = 0;
    this.unreserve();
  }
}
