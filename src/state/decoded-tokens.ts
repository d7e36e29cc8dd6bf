/** The two kinds of step: tokens that were given are run by `prefill`, tokens that the model chose by `decode`. */
export type StepKind = 'prefill' | 'decode';

/**
 * Which tokens of a sequence the model chose itself, as ranges of their indices; all others were given. It says by which kind of step a token is run, the first time
 * and whenever it is run again: so that it gets the same bits, on any backend.
 */
export class DecodedTokens {
  /** First and end of each range, rising. */
  #bounds: number[] = [];

  get bounds(): readonly number[] {
    return this.#bounds;
  }

  /** Takes over bounds that were saved. */
  set bounds(bounds: readonly number[]) {
    this.#bounds = [...bounds];
  }

  /** Index of the first; infinite when there is none. */
  get first(): number {
    return this.#bounds[0] ?? Number.POSITIVE_INFINITY;
  }

  /** Token `index` was chosen; nothing is known of those after it any more. */
  add(index: number): void {
    this.truncate(index);
    if (this.#bounds.at(-1) === index) this.#bounds[this.#bounds.length - 1] = index + 1;
    else this.#bounds.push(index, index + 1);
  }

  /** Forgets tokens from `tokens` on. */
  truncate(tokens: number): void {
    while ((this.#bounds.at(-2) ?? -1) >= tokens) this.#bounds.length -= 2;
    const last = this.#bounds.length - 1;
    if ((this.#bounds[last] ?? 0) > tokens) this.#bounds[last] = tokens;
  }

  /** The kind of token `index`, and the end of the run of such tokens that it is in. */
  at(index: number): { kind: StepKind; end: number } {
    for (let i = 0; i < this.#bounds.length; i += 2) {
      const [first, end] = [this.#bounds[i] as number, this.#bounds[i + 1] as number];
      if (index < first) return { kind: 'prefill', end: first };
      if (index < end) return { kind: 'decode', end };
    }
    return { kind: 'prefill', end: Number.POSITIVE_INFINITY };
  }
}
