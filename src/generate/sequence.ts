import { CrosscurrentError, mismatch } from '../errors.js';
import type { SequenceState } from '../state/sequence-state.js';
import { Generation, type GenerationHost } from './generation.js';
import type { GenerateOptions } from './options.js';

/**
 * Tokens that the model has read, kept as a value: feed it, continue it, fork it, save it.
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
        state.ids.length = Math.max(before, state.processed);
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

  /** An independent copy. Settled cache pages are shared, recurrent states copied. */
  async fork(): Promise<Sequence> {
    return this.#exclusive(async (state) => new Sequence(this.#host, await this.#host.scheduler.fork(state)));
  }

  /** The sequence as bytes, for `model.restore` of the same model: this process, another, or later. */
  async save(): Promise<Uint8Array> {
    return this.#exclusive((state) => saveState(this.#host, state));
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

const saveMagic = 0x31514343; // "CCQ1"
const saveHeaderWords = 5;

/** Little-endian words: magic, vocabulary, tokens, committed tokens, accepted nodes; then ids, node numbers, and the native state. */
async function saveState(host: GenerationHost, state: SequenceState): Promise<Uint8Array> {
  if (state.lost) throw new CrosscurrentError('INVALID_STATE', 'sequence: its state was lost in a failed step');
  const native = state.processed > 0 ? await host.scheduler.save(state) : new Uint8Array(0);
  const words = Int32Array.of(
    saveMagic,
    host.vocab,
    state.ids.length,
    state.length,
    state.accepted.length,
    ...state.accepted,
  );
  const bytes = new Uint8Array(4 * (words.length + state.ids.length) + native.length);
  bytes.set(new Uint8Array(words.buffer));
  bytes.set(new Uint8Array(Int32Array.from(state.ids).buffer), 4 * words.length);
  bytes.set(native, 4 * (words.length + state.ids.length));
  return bytes;
}

/** Fills an empty sequence from `save()`'s bytes. @throws INVALID_STATE when they are damaged or of another model. */
export async function restoreState(host: GenerationHost, state: SequenceState, bytes: Uint8Array): Promise<void> {
  const wrong = (operand: string, expected: string, got: unknown): Error =>
    mismatch('INVALID_STATE', `saved sequence: ${operand}`, expected, got);
  if (bytes.length < 4 * saveHeaderWords) throw wrong('size', `at least ${4 * saveHeaderWords} bytes`, bytes.length);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const word = (index: number): number => view.getInt32(4 * index, true);
  if (word(0) !== saveMagic) throw wrong('magic', String(saveMagic), word(0));
  if (word(1) !== host.vocab) throw wrong('vocabulary', String(host.vocab), word(1));
  const [tokens, length, accepted] = [word(2), word(3), word(4)];
  const { context } = host.scheduler.limits;
  if (tokens < 0 || tokens > context) throw wrong('tokens', `0..${context}`, tokens);
  if (length < 0 || accepted < 0 || length + accepted > tokens)
    throw wrong('processed tokens', `at most ${tokens}`, length + accepted);
  const idsAt = saveHeaderWords + accepted;
  const nativeAt = 4 * (idsAt + tokens);
  if (bytes.length < nativeAt) throw wrong('size', `at least ${nativeAt} bytes`, bytes.length);
  const nodes = Array.from({ length: accepted }, (_, i) => word(saveHeaderWords + i));
  if (nodes.some((node, i) => node < 0 || node <= (nodes[i - 1] ?? -1)))
    throw wrong('accepted nodes', 'rising numbers', nodes);
  const ids = Array.from({ length: tokens }, (_, i) => word(idsAt + i));
  const stray = ids.find((id) => id < 0 || id >= host.vocab);
  if (stray !== undefined) throw wrong('token', `0..${host.vocab - 1}`, stray);
  append(state, ids, host);
  const processed = length + accepted;
  if (accepted > 0) {
    // the fourth word of the native state: nodes that wait to be accepted
    const pending = bytes.length >= nativeAt + 16 ? view.getInt32(nativeAt + 12, true) : 0;
    const last = nodes.at(-1) as number;
    if (last >= pending) throw wrong('accepted nodes', `below ${pending}`, last);
  }
  if (processed > 0) await host.scheduler.restore(state, bytes.subarray(nativeAt), processed);
  else if (bytes.length !== nativeAt) throw wrong('size', `${nativeAt} bytes`, bytes.length);
  state.length = length;
  state.accepted = nodes;
}
