/**
 * The suffix automaton of a growing list of tokens: every run of tokens in it, and where each last ended. Amortised O(1) a token.
 *
 * @see Blumer et al. 1985, "The smallest automaton recognizing the subwords of a text"
 */
export class SuffixAutomaton {
  readonly #next: Map<number, number>[] = [new Map()];
  readonly #link: number[] = [-1];
  readonly #length: number[] = [0];
  /** Index after the latest occurrence of the state's runs that a match went through; after their first one before that. */
  readonly #end: number[] = [0];
  readonly #tokens: number[] = [];
  #last = 0;
  /** State and length of the longest suffix that also occurs earlier. */
  #match = 0;
  #matched = 0;
  #matchEnd = 0;

  get tokens(): readonly number[] {
    return this.#tokens;
  }

  push(token: number): void {
    this.#follow(token);
    this.#tokens.push(token);
    const current = this.#state((this.#length[this.#last] as number) + 1, this.#tokens.length);
    let at = this.#last;
    while (at >= 0 && !this.#next[at]?.has(token)) {
      this.#next[at]?.set(token, current);
      at = this.#link[at] as number;
    }
    if (at < 0) this.#link[current] = 0;
    else this.#link[current] = this.#split(at, token);
    this.#last = current;
    // after the split: only now do all runs of the match's state end here
    if (this.#matched > 0) this.#end[this.#match] = this.#tokens.length;
  }

  /** The longest suffix of the tokens that occurs earlier too: its length, and the index after that occurrence. */
  longestMatch(): { length: number; end: number } {
    return { length: this.#matched, end: this.#matchEnd };
  }

  /**
   * Tokens that came after an earlier occurrence of the end of the tokens with `path` after them: those of the longest such end first, of one end the latest first; for ends of at
   * least `minLength` tokens, at most `count`.
   */
  followers(path: readonly number[], minLength: number, count: number): number[] {
    let [at, length] = [this.#match, this.#matched];
    for (const token of path) {
      while (at > 0 && !this.#next[at]?.has(token)) {
        at = this.#link[at] as number;
        length = Math.min(length, this.#length[at] as number);
      }
      const next = this.#next[at]?.get(token);
      [at, length] = next === undefined ? [0, 0] : [next, length + 1];
    }
    const found = new Set<number>();
    while (at > 0 && length >= minLength && found.size < count) {
      const next = [...(this.#next[at] ?? [])];
      next.sort(([, a], [, b]) => (this.#end[b] as number) - (this.#end[a] as number));
      for (const [token] of next) if (found.size < count) found.add(token);
      at = this.#link[at] as number;
      length = Math.min(length, this.#length[at] as number);
    }
    return [...found];
  }

  /** Moves the match along one more token, over what was there before it. */
  #follow(token: number): void {
    let at = this.#match;
    while (at > 0 && !this.#next[at]?.has(token)) at = this.#link[at] as number;
    if (at !== this.#match) this.#matched = Math.min(this.#matched, this.#length[at] as number);
    const next = this.#next[at]?.get(token);
    if (next === undefined) {
      [this.#match, this.#matched] = [0, 0];
      return;
    }
    this.#match = next;
    this.#matched++;
    this.#matchEnd = this.#end[next] as number;
  }

  #state(length: number, end: number): number {
    this.#next.push(new Map());
    this.#link.push(-1);
    this.#end.push(end);
    return this.#length.push(length) - 1;
  }

  /** The state that `token` leads to from `at`, cloned when it stands for longer runs as well. */
  #split(at: number, token: number): number {
    const target = this.#next[at]?.get(token) as number;
    if ((this.#length[at] as number) + 1 === this.#length[target]) return target;
    const clone = this.#state((this.#length[at] as number) + 1, this.#end[target] as number);
    this.#next[clone] = new Map(this.#next[target]);
    this.#link[clone] = this.#link[target] as number;
    this.#link[target] = clone;
    for (let state = at; state >= 0 && this.#next[state]?.get(token) === target; state = this.#link[state] as number)
      this.#next[state]?.set(token, clone);
    if (this.#match === target && this.#matched <= (this.#length[clone] as number)) this.#match = clone;
    return clone;
  }
}
