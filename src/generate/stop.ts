/**
 * Finds stop strings in text that comes in pieces. Text that could still become one is held back until it is decided;
 * nothing of a stop string is ever given out.
 */
export class StopMatcher {
  readonly #stops: readonly string[];
  #held = '';
  /** The stop string that ended the text. */
  found: string | undefined;

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** The text that is now certain. After `found` is set, nothing more comes. */
  push(text: string): string {
    if (this.found !== undefined) return '';
    this.#held += text;
    let [at, match] = [Number.POSITIVE_INFINITY, ''];
    for (const stop of this.#stops) {
      const index = this.#held.indexOf(stop);
      if (index >= 0 && index < at) [at, match] = [index, stop];
    }
    if (match !== '') {
      this.found = match;
      const before = this.#held.slice(0, at);
      this.#held = '';
      return before;
    }
    const keep = Math.max(0, ...this.#stops.map((stop) => overlap(this.#held, stop)));
    const certain = this.#held.slice(0, this.#held.length - keep);
    this.#held = this.#held.slice(this.#held.length - keep);
    return certain;
  }

  /** What was held back, now that no more text comes. */
  end(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }
}

/** Length of the longest proper prefix of `stop` that `text` ends with. */
function overlap(text: string, stop: string): number {
  for (let length = Math.min(stop.length - 1, text.length); length > 0; length--)
    if (text.endsWith(stop.slice(0, length))) return length;
  return 0;
}
