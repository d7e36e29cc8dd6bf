import type { Checkpoint } from '../state/checkpoint.js';
import { addon } from './addon.js';
import { runJob } from './job.js';
import type { NativeProgram } from './program.js';
import { received, receivedAfter, sendable } from './transfer.js';
import type { ResultHandle, SessionBytes, SessionHandle, SessionLimits, SessionOptions } from './types.js';
import type { NativeWeights } from './weights.js';

export interface StepResult {
  /** Chosen tokens, one a row. */
  ids?: Int32Array;
  /** [rows, vocab] */
  logits?: Float32Array;
}

const noPages = new Int32Array(0);
const wantIds = 1;
const wantLogits = 2;

/** A program bound to weights, with the states of its sequences. Calls run in the order they are made. */
export class Session {
  readonly handle: SessionHandle;
  readonly limits: SessionLimits;
  readonly bytes: SessionBytes;

  constructor(handle: SessionHandle) {
    this.handle = handle;
    this.limits = addon().sessionLimits(handle);
    this.bytes = addon().sessionBytes(handle);
  }

  /**
   * Runs one step; `words` are copied before this returns. Where it rejects, the sequences of the step have lost their state.
   *
   * @throws CrosscurrentError INVALID_ARGUMENT, TOKEN_OUT_OF_RANGE, CONTEXT_OVERFLOW, DISPOSED; the reason of `signal`.
   */
  async step(
    words: Int32Array,
    want: { ids?: boolean; logits?: boolean } = {},
    signal?: AbortSignal,
  ): Promise<StepResult> {
    const bits = (want.ids ? wantIds : 0) | (want.logits ? wantLogits : 0);
    const given = await (signal
      ? runJob({ signal }, (control) => addon().step(this.handle, words, bits, control))
      : addon().step(this.handle, words, bits));
    if (!given?.logits) return (given as StepResult | undefined) ?? {};
    const logits = await received(given.logits, Float32Array);
    return given.ids ? { ids: given.ids, logits } : { logits };
  }

  /** Rows that each expert was given so far: for each `moe` of the program, in its order. */
  get expertLoads(): number[][] {
    return addon().expertLoads(this.handle);
  }

  /** A buffer of the program as the last step left it. */
  async read(buffer: number): Promise<Float32Array> {
    return received(await addon().readBuffer(this.handle, buffer), Float32Array);
  }

  /** Committed elements of a state: of a slot, or of one kv page. */
  async readState(state: number, unit: number): Promise<Float32Array> {
    return received(await addon().readState(this.handle, state, unit), Float32Array);
  }

  /** Copies slots and kv pages, given as pairs [from, to, …], in order with the steps around it. */
  async copy(slotPairs: Int32Array, pagePairs: Int32Array): Promise<void> {
    return addon().copyUnits(this.handle, slotPairs, pagePairs);
  }

  /** The state after `room` zeros, which are the caller's. */
  async save(slot: number, pages: Int32Array, room = 0): Promise<Uint8Array<ArrayBuffer>> {
    return receivedAfter(room, await addon().save(this.handle, slot, pages));
  }

  /**
   * Await it before the next step: many bytes are handed over in several turns.
   *
   * @throws CrosscurrentError INVALID_STATE where the bytes are damaged or of another model.
   */
  async restore(bytes: Uint8Array, slot: number, pages: Int32Array): Promise<void> {
    return addon().restore(this.handle, await sendable(bytes), slot, pages);
  }

  /** The recurrent states of a slot, kept by native code: nothing is copied on the event loop. */
  async checkpoint(slot: number): Promise<Checkpoint> {
    return new SlotCheckpoint(await addon().save(this.handle, slot, noPages));
  }

  /** Makes a slot what it was at the checkpoint, which the call holds until it has ended. */
  async resume(checkpoint: Checkpoint, slot: number): Promise<void> {
    return addon().restore(this.handle, (checkpoint as SlotCheckpoint).states, slot, noPages);
  }

  /** Steps that were queued still run. */
  close(): void {
    addon().close(this.handle);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

class SlotCheckpoint implements Checkpoint {
  readonly states: Uint8Array | ResultHandle;
  readonly bytes: number;
  #holders = 1;

  constructor(states: Uint8Array | ResultHandle) {
    this.states = states;
    this.bytes = ArrayBuffer.isView(states) ? states.length : addon().resultBytes(states);
  }

  hold(): void {
    this.#holders++;
  }

  release(): void {
    if (--this.#holders === 0 && !ArrayBuffer.isView(this.states)) addon().close(this.states);
  }
}

/** @throws CrosscurrentError OUT_OF_MEMORY before anything is taken, MISSING_KERNEL listing every op without one; the reason of `signal`. */
export async function openSession(
  program: NativeProgram,
  weights: NativeWeights,
  options: SessionOptions,
  signal?: AbortSignal,
): Promise<Session> {
  const job = signal ? { signal } : {};
  const handle = await runJob(job, (control) =>
    addon().createSession(program.handle, weights.handle, options, control),
  );
  return new Session(handle);
}
