import { mismatch } from '../errors.js';
import { DecodedTokens } from './decoded-tokens.js';
import type { PagePool } from './pages.js';
import type { PrefixNode } from './prefix-cache.js';

/**
 * Where a sequence stands, in tokens and in native memory. Its tokens are `ids`; native code has run the first `processed` of them:
 * `length` are committed and `accepted` name the nodes of the last decode step to be committed by the next one.
 *
 * What native code holds can always be had again by running the tokens once more, each in the kind of step that `decoded` says: so it may be dropped where room is
 * needed.
 */
export class SequenceState {
  readonly slot: number;
  readonly ids: number[] = [];
  readonly pages: number[] = [];
  readonly decoded = new DecodedTokens();
  length = 0;
  accepted: readonly number[] = [];
  /** Set when a failed step destroyed the native state. */
  lost = false;
  /** Whether it had room once: it gets it again, whoever holds it meanwhile. */
  hadRoom = false;
  /** Tasks and native calls that use it: while there are any, only the scheduler's own rules may take its pages. */
  tasks = 0;
  pins = 0;
  /** When it was last used, in turns of the scheduler. */
  usedAt = 0;
  /** Where in the prefix cache its beginning ends, and the token up to which it is known to share it with another. */
  trail: PrefixNode | undefined;
  splitAt = 0;
  readonly #pool: PagePool;
  readonly #pageTokens: number;

  readonly #all: Set<SequenceState>;

  /** Adds itself to `all`, until it is disposed. */
  constructor(slot: number, pool: PagePool, pageTokens: number, all = new Set<SequenceState>()) {
    this.slot = slot;
    this.#pool = pool;
    this.#pageTokens = pageTokens;
    this.#all = all;
    all.add(this);
  }

  /** An empty one for the same slot: of the two, the one to be kept is not known yet. */
  successor(): SequenceState {
    return new SequenceState(this.slot, this.#pool, this.#pageTokens, this.#all);
  }

  get processed(): number {
    return this.length + this.accepted.length;
  }

  /** Tokens up to the last one to be committed, rejected ones among them: until the next step, they take room in its pages. */
  get span(): number {
    return this.length + (this.accepted.at(-1) ?? -1) + 1;
  }

  /** How many of its pages others hold too. */
  get sharedPages(): number {
    return this.pages.filter((page) => this.#pool.isShared(page)).length;
  }

  /** Pages at the end that a step may still write to: those not filled by committed tokens. */
  get openPages(): number {
    return this.pages.length - this.#settledPages;
  }

  get #settledPages(): number {
    return this.#pageTokens === 0 ? 0 : Math.floor(this.length / this.#pageTokens);
  }

  /** Pages that it lacks for `tokens` tokens. */
  pagesMissing(tokens: number): number {
    if (this.#pageTokens === 0) return 0;
    return Math.max(Math.ceil(tokens / this.#pageTokens) - this.pages.length, 0);
  }

  /** Gives back pages beyond `tokens` tokens. */
  trim(tokens: number): void {
    const left = this.#pageTokens === 0 ? 0 : Math.ceil(tokens / this.#pageTokens);
    for (const page of this.pages.splice(left)) this.#pool.release(page);
  }

  /** Makes the first `tokens` tokens have pages; so many must be free. */
  grow(tokens: number): void {
    for (let missing = this.pagesMissing(tokens); missing > 0; missing--) this.pages.push(this.#pool.take());
  }

  /**
   * Makes `twin`, which is empty, equal to this: shares the pages that no step will write again, takes new ones for the rest. Returns the pages to be copied, as
   * from-to pairs.
   */
  shareWith(twin: SequenceState): number[] {
    if (twin.ids.length > 0) throw mismatch('INTERNAL', 'fork', 'an empty sequence', twin.ids.length);
    const settled = this.#settledPages;
    const pairs: number[] = [];
    this.pages.forEach((page, i) => {
      if (i < settled) this.#pool.share(page);
      else pairs.push(page, this.#pool.take());
      twin.pages.push(i < settled ? page : (pairs.at(-1) as number));
    });
    for (const id of this.ids) twin.ids.push(id);
    twin.decoded.bounds = this.decoded.bounds;
    twin.length = this.length;
    twin.accepted = this.accepted;
    twin.hadRoom = this.hadRoom;
    twin.trail = this.trail;
    twin.splitAt = this.splitAt;
    return pairs;
  }

  /** Forgets tokens from `tokens` on, none of which has been run. */
  truncate(tokens: number): void {
    this.ids.length = Math.min(this.ids.length, tokens);
    this.decoded.truncate(tokens);
    this.splitAt = 0;
    if (this.trail && this.trail.depth * this.trail.tokens > tokens) this.trail = undefined;
  }

  /** Goes back to `tokens` run tokens of those in `length`, in models whose only state are pages. */
  shorten(tokens: number): void {
    this.trim(tokens);
    this.length = tokens;
    this.accepted = [];
  }

  /** Whether the next token goes to a page that others hold too. */
  get writesShared(): boolean {
    const last = this.pages.at(-1);
    return last !== undefined && this.openPages > 0 && this.#pool.isShared(last);
  }

  /** Takes a page of its own, which must be free, for the last one. Returns the page to be copied, as a from-to pair. */
  ownLastPage(): [number, number] {
    const last = this.pages.pop() as number;
    const copy = this.#pool.take();
    this.pages.push(copy);
    this.#pool.release(last);
    return [last, copy];
  }

  /** Gives every page back and forgets what was run, not the tokens. */
  drop(): void {
    for (const page of this.pages) this.#pool.release(page);
    this.pages.length = 0;
    this.length = 0;
    this.accepted = [];
    this.trail = undefined;
  }

  /** Forgets every token and gives every page back; the slot stays. */
  reset(): void {
    this.drop();
    this.truncate(0);
    this.hadRoom = false;
  }

  /** Gives every page back, for good. The slot is the owner's affair. */
  dispose(): void {
    this.drop();
    this.#all.delete(this);
  }
}
