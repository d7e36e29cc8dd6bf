// A fixture opened through the package's own path, and a driver that feeds it steps by hand.
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { compile, type Program } from '../../src/graph/compile.js';
import { findModel } from '../../src/models/index.js';
import { loadWeights, openSession, parseProgram } from '../../src/native/index.js';
import type { RawConfig } from '../../src/weights/config.js';
import { openModelFiles } from '../../src/weights/open.js';
import { type GoldenTensor, readSafetensors } from '../support/safetensors.js';

export const fixtureFolder = fileURLToPath(new URL('../../../shared/parity/', import.meta.url));
export const missing = existsSync(fixtureFolder) ? undefined : `no fixtures at ${fixtureFolder}`;

export const readGolden = (name: string): Map<string, GoldenTensor> =>
  readSafetensors(`${fixtureFolder}${name}/golden.safetensors`);

export const pageTokens = 16;
const maxTokens = 128;
const maxStep = 256;
const slots = 9;

/** One sequence's tokens in a step. */
export interface Run {
  readonly slot: number;
  readonly ids: Int32Array;
}

/** A model in a session of exact activations that keeps every intermediate. */
export class Fixture {
  readonly program: Program;
  readonly #session: Awaited<ReturnType<typeof openSession>>;
  readonly #close: () => Promise<void>;
  /** Committed tokens of each slot, and whether the last decoded one is still pending. */
  readonly #length = new Int32Array(slots);
  readonly #pending = new Uint8Array(slots);

  private constructor(program: Program, session: Awaited<ReturnType<typeof openSession>>, close: () => Promise<void>) {
    this.program = program;
    this.#session = session;
    this.#close = close;
  }

  static async open(path: string, changes: RawConfig = {}): Promise<Fixture> {
    const files = await openModelFiles(path);
    const { graph, logits } = await findModel(files.config.modelType).build(
      { ...files.config.raw, ...changes },
      files.checkpoint,
    );
    const program = await compile(
      graph,
      { logits },
      { bounds: { t: maxStep, seqs: slots, rows: maxStep }, keepAll: true },
    );
    const native = parseProgram(program.words);
    const weights = await loadWeights(files.file, native, program.weights, {});
    const pages = (slots * maxTokens) / pageTokens;
    const session = await openSession(native, weights, {
      slots,
      pages,
      pageTokens,
      window: 8,
      threads: 0,
      exact: true,
    });
    return new Fixture(program, session, async () => {
      for (const item of [session, weights, native, files]) await item.close();
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#close();
  }

  /** Runs one step and returns the logits of all its tokens. */
  async step(kind: 'prefill' | 'decode', runs: readonly Run[]): Promise<Float32Array> {
    const { logits } = await this.#session.step(this.#words(kind, runs), { logits: true });
    for (const { slot, ids } of runs) {
      this.#length[slot] =
        (this.#length[slot] ?? 0) + (this.#pending[slot] ?? 0) + (kind === 'prefill' ? ids.length : 0);
      this.#pending[slot] = kind === 'decode' ? ids.length : 0;
    }
    return logits as Float32Array;
  }

  /** Forgets a sequence: its next step starts a new one. */
  reset(slot: number): void {
    this.#length[slot] = 0;
    this.#pending[slot] = 0;
  }

  /** A labelled tensor as the last step left it. */
  async trace(label: string): Promise<Float32Array> {
    const buffer = this.program.labels.get(label);
    if (buffer === undefined) throw new Error(`no label ${label}`);
    return this.#session.read(buffer);
  }

  /** Committed elements of a state in the slot, or of its first `pages` pages. */
  async state(name: string, slot: number, page?: number): Promise<Float32Array> {
    const index = this.program.states.findIndex((state) => state.name === name);
    if (index < 0) throw new Error(`no state ${name}`);
    return this.#session.readState(index, page === undefined ? slot : this.#page(slot, page));
  }

  #page(slot: number, page: number): number {
    return slot * (maxTokens / pageTokens) + page;
  }

  /** The words of a step; format: native/step.cpp. */
  #words(kind: 'prefill' | 'decode', runs: readonly Run[]): Int32Array {
    const t = runs.reduce((sum, { ids }) => sum + ids.length, 0);
    const all = Array.from({ length: t }, (_, i) => i);
    const pagesEach = maxTokens / pageTokens;
    const ids = runs.flatMap((run) => [...run.ids]);
    const position: number[] = [];
    const parent: number[] = [];
    const first = [0];
    const acceptedFirst = [0];
    const accepted: number[] = [];
    for (const { slot, ids: run } of runs) {
      const base = (this.#length[slot] ?? 0) + (this.#pending[slot] ?? 0);
      const start = position.length;
      run.forEach((_, i) => {
        position.push(base + i);
        parent.push(i === 0 ? -1 : start + i - 1);
      });
      for (let node = 0; node < (this.#pending[slot] ?? 0); node++) accepted.push(node);
      acceptedFirst.push(accepted.length);
      first.push(position.length);
    }
    const pages = runs.flatMap(({ slot }) => Array.from({ length: pagesEach }, (_, page) => this.#page(slot, page)));
    const header = [kind === 'prefill' ? 0 : 1, t, runs.length, t, pagesEach, 0, 0, 0];
    return Int32Array.from([
      ...header,
      ...ids,
      ...position,
      ...parent,
      ...first,
      ...runs.map(({ slot }) => slot),
      ...runs.map(({ slot }) => this.#length[slot] ?? 0),
      ...acceptedFirst,
      ...accepted,
      ...pages,
      ...all,
    ]);
  }
}

export function maxAbs(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  // NaN must not pass: Math.max would keep it, a comparison would drop it
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs((a[i] ?? Number.NaN) - (b[i] ?? Number.NaN)));
  return most;
}
