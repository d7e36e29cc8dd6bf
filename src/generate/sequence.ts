import { CrosscurrentError, mismatch } from '../errors.js';
import type { SequenceState } from '../state/sequence-state.js';
import { Generation, type GenerationHost } from './generation.js';
import type { GenerateOptions } from './options.js';
import { readSaved, restoreState, saveState } from './saved-sequence.js';

/**
 * Tokens that the model has read, kept as a value: feed it, continue it, fork it, rewind it, save it.
 *
 * One operation at a time. The last token is run only when something follows it, so that its logits are there to choose from.
 */
export class Sequence implements AsyncDisposable {
  readonly #host: GenerationHost;
  #state: SequenceState | undefined;
  #busy = false;

  /** @internal */
  constructor(host: GenerationHost, state: SequenceState) {
    this.#host = host;
    this.#state = state;
  }

  /** Every token of the sequence, generated ones included. */
  get ids(): Int32Array {
    return Int32Array.from(this.#use().ids);
  }

  get length(): number {
    return this.#use().ids.length;
  }

  /**
   * Bytes of native memory that it uses: its place among the recurrent states, at its planned size, and the pages of the attention cache that hold its tokens.
   * Of these, `sharedBytes` are in pages that others use too.
   */
  get bytes(): number {
    const { slotBytes, pageBytes } = this.#host;
    return slotBytes + this.#use().pages.length * pageBytes;
  }

  /** The part of `bytes` that others use as well: forks, sequences with the same beginning, the cache of such beginnings. */
  get sharedBytes(): number {
    return this.#use().sharedPages * this.#host.pageBytes;
  }

  /** Appends tokens and reads them. */
  async feed(ids: ArrayLike<number>, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#exclusive(async (state) => {
      const before = state.ids.length;
      append(state, ids, this.#host);
      try {
        await this.#host.scheduler.run(
          { state, target: state.ids.length - 1, capacity: state.ids.length },
          options.signal,
        );
      } catch (error) {
        state.truncate(Math.max(before, state.processed));
        throw error;
      }
    });
  }

  /** Continues the sequence, which must hold a token. What is generated becomes part of it. */
  generate(options: Omit<GenerateOptions, 'raw' | 'templateVariables' | 'tools'> = {}): Generation {
    return new Generation(this.#host, options, async () => {
      const state = this.#lock();
      if (state.ids.length === 0) {
        this.#busy = false;
        throw new CrosscurrentError('EMPTY_PROMPT', 'sequence: feed at least one token before generating');
      }
      return {
        state,
        promptIds: [...state.ids],
        release: () => {
          this.#busy = false;
        },
      };
    });
  }

  /** Drops the last `n` tokens: what follows is what would have followed had they never been there. */
  async rewind(n: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#exclusive(async (state) => {
      if (!Number.isInteger(n) || n < 0 || n > state.ids.length)
        throw mismatch('INVALID_ARGUMENT', 'rewind: n', `0..${state.ids.length} (the length)`, String(n));
      await this.#host.scheduler.rewind(state, n, options.signal);
    });
  }

  /** An independent copy, which takes a place of the model: waits for one that is free. Settled cache pages are shared, recurrent states copied. */
  async fork(options: { signal?: AbortSignal } = {}): Promise<Sequence> {
    return this.#exclusive(
      async (state) => new Sequence(this.#host, await this.#host.scheduler.fork(state, options.signal)),
    );
  }

  /** The sequence as bytes, for `restore` of the same model: in this process, another, or later. */
  async save(): Promise<Uint8Array> {
    return this.#exclusive((state) => saveState(this.#host, state));
  }

  /**
   * Becomes the saved sequence instead of what it is. `bytes` must not change meanwhile.
   *
   * @throws CrosscurrentError INVALID_STATE when they are damaged or of another model, saying what differs: the sequence is then as it was.
   */
  async restore(bytes: Uint8Array): Promise<void> {
    await this.#exclusive(async (state) => {
      const saved = await readSaved(this.#host, bytes);
      const next = state.successor();
      try {
        await restoreState(this.#host, next, saved);
      } catch (error) {
        next.dispose();
        throw error;
      }
      state.dispose();
      this.#state = next;
    });
  }

  /** Frees its memory. Idempotent; waits for nothing. */
  async dispose(): Promise<void> {
    const state = this.#state;
    if (!state) return;
    if (this.#busy)
      throw new CrosscurrentError('INVALID_STATE', 'sequence: disposed while it is in use; cancel that first');
    this.#state = undefined;
    this.#host.scheduler.close(state);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  #use(): SequenceState {
    if (!this.#state) throw new CrosscurrentError('DISPOSED', 'the sequence was disposed');
    return this.#state;
  }

  #lock(): SequenceState {
    const state = this.#use();
    if (this.#busy) throw new CrosscurrentError('INVALID_STATE', 'sequence: one operation at a time');
    this.#busy = true;
    return state;
  }

  async #exclusive<T>(work: (state: SequenceState) => Promise<T>): Promise<T> {
    const state = this.#lock();
    try {
      return await work(state);
    } finally {
      this.#busy = false;
    }
  }
}

/** Appends checked ids to a sequence. */
export function append(state: SequenceState, ids: ArrayLike<number>, host: GenerationHost): void {
  const { context } = host.scheduler.limits;
  if (state.ids.length + ids.length > context)
    throw mismatch(
      'CONTEXT_OVERFLOW',
      'prompt',
      `at most ${context} tokens (the context)`,
      state.ids.length + ids.length,
    );
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i] as number;
    if (!Number.isInteger(id) || id < 0 || id >= host.vocab)
      throw mismatch('TOKEN_OUT_OF_RANGE', `token ids[${i}]`, `0..${host.vocab - 1}`, String(id));
  }
  for (let i = 0; i < ids.length; i++) state.ids.push(ids[i] as number);
}
