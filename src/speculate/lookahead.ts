import { mismatch } from '../errors.js';
import type { Draft, Drafter, DraftOutcome, DraftRequest, Speculation } from '../generate/speculation.js';

export interface LookaheadOptions {
  /** Future positions guessed at once. Default: 5. */
  window?: number;
  /** Tokens of the n-grams that are collected and tried. Default: 4. */
  ngram?: number;
  /** N-grams tried in a step. Default: 4. */
  tries?: number;
}

/** N-grams kept for a first token. */
const keptPerToken = 16;

/**
 * Drafts from the model's own parallel guesses, without a draft model: each step also refines guesses for the next `window` positions (Jacobi iteration);
 * guesses of successive steps at successive positions form n-grams, which are tried when their first token comes up.
 *
 * @see Fu et al. 2024, arXiv:2402.02057
 */
export function lookahead(options: LookaheadOptions = {}): Speculation {
  const { window = 5, ngram = 4, tries = 4 } = options;
  for (const [name, value, low] of [
    ['window', window, 1],
    ['ngram', ngram, 2],
    ['tries', tries, 0],
  ] as const)
    if (!Number.isInteger(value) || value < low)
      throw mismatch('INVALID_ARGUMENT', name, `an integer, ${low} or more`, String(value));
  return () => new LookaheadDrafter(window, ngram, tries);
}

class LookaheadDrafter implements Drafter {
  readonly #window: number;
  readonly #ngram: number;
  readonly #tries: number;
  /** First token → the tokens that followed it in n-grams, latest last. */
  readonly #pool = new Map<number, number[][]>();
  /** Guesses of the last steps by absolute position, oldest step first. */
  #guesses: Map<number, number>[] = [];
  /** Position of the last token when the draft was made, and the draft's index of each window token. */
  #base = 0;
  #windowNodes: number[] = [];

  constructor(window: number, ngram: number, tries: number) {
    this.#window = window;
    this.#ngram = ngram;
    this.#tries = tries;
  }

  propose({ ids, limit }: DraftRequest): Draft {
    const tree = new DraftTree(limit);
    const last = ids.at(-1) as number;
    for (const rest of (this.#pool.get(last) ?? []).slice(-this.#tries).reverse()) tree.add(rest);
    this.#base = ids.length - 1;
    const latest = this.#guesses.at(-1);
    const chain: number[] = [];
    for (let i = 1; i <= this.#window; i++)
      chain.push(latest?.get(this.#base + i) ?? (ids[(this.#base + i * 7) % ids.length] as number));
    this.#windowNodes = tree.add(chain);
    return tree.draft;
  }

  observe({ draft, chosen }: DraftOutcome): void {
    if (draft.ids.length === 0) return;
    // the choice after a window token is the refined guess for the position after it
    const guesses = new Map<number, number>([[this.#base + 1, chosen[0] as number]]);
    for (const [i, node] of this.#windowNodes.entries()) guesses.set(this.#base + 2 + i, chosen[node + 1] as number);
    this.#guesses.push(guesses);
    if (this.#guesses.length < this.#ngram) return;
    for (const [position, first] of this.#guesses[0] as Map<number, number>) {
      const rest: number[] = [];
      for (let i = 1; i < this.#ngram; i++) {
        const token = this.#guesses[i]?.get(position + i);
        if (token === undefined) break;
        rest.push(token);
      }
      if (rest.length > 0) this.#keep(first, rest);
    }
    this.#guesses.shift();
  }

  #keep(first: number, rest: number[]): void {
    const key = rest.join();
    const known = (this.#pool.get(first) ?? []).filter((other) => other.join() !== key);
    known.push(rest);
    this.#pool.set(first, known.slice(-keptPerToken));
  }
}

/** A draft that shares the common beginnings of what is added to it. */
class DraftTree {
  readonly #limit: number;
  readonly #ids: number[] = [];
  readonly #parents: number[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get draft(): Draft {
    return { ids: this.#ids, parents: this.#parents };
  }

  /** Adds a chain after the last token, as far as there is room; the nodes it goes through. */
  add(tokens: readonly number[]): number[] {
    const path: number[] = [];
    let parent = -1;
    for (const token of tokens) {
      let node = this.#ids.findIndex((id, i) => id === token && this.#parents[i] === parent);
      if (node < 0) {
        if (this.#ids.length === this.#limit) break;
        this.#parents.push(parent);
        node = this.#ids.push(token) - 1;
      }
      path.push(node);
      parent = node;
    }
    return path;
  }
}
