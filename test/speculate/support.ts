// Decoding with every logit that a step computes for the sequence, and drafters that know the answer.
import { Sampler, type SamplingOptions } from '../../src/generate/sampling.js';
import { append } from '../../src/generate/sequence.js';
import { type SpeculationTarget, Speculator, targetOf } from '../../src/generate/speculation.js';
import type { Draft, Speculation, SpeculationStats } from '../../src/index.js';
import { hostOf, type Model } from '../../src/model.js';
import { Session } from '../../src/native/session.js';

const headerWords = 8;

/** One node of a step: what it is, where, what it follows, and the logits after it. */
interface Row {
  readonly id: number;
  readonly position: number;
  /** Index among the step's rows of the sequence, -1 for the last committed token. */
  readonly parent: number;
  readonly logits: Float32Array;
}

type Watcher = (rows: readonly Row[]) => void;

const watchers = new Map<Session, Map<number, Watcher>>();
let lastSession: Session | undefined;
const { step } = Session.prototype;

/** Makes every step compute logits too, and shows them to whoever watches the sequence. */
export function watchSteps(): void {
  Session.prototype.step = async function (this: Session, words, want = {}, signal) {
    lastSession = this;
    const watched = watchers.get(this);
    if (!watched?.size || (words[3] as number) === 0) return step.call(this, words, want, signal);
    const result = await step.call(this, words, { ...want, logits: true }, signal);
    for (const [slot, rows] of rowsOf(words, result.logits as Float32Array)) watched.get(slot)?.(rows);
    return want.logits ? result : { ...(result.ids ? { ids: result.ids } : {}) };
  };
}

export function unwatchSteps(): void {
  Session.prototype.step = step;
}

/** Reads the words of a step (format: native/step.cpp). */
function rowsOf(words: Int32Array, logits: Float32Array): Map<number, Row[]> {
  const [, t, seqs, rows, maxPages] = words as unknown as [number, number, number, number, number];
  let at = headerWords;
  const section = (size: number): Int32Array => {
    at += size;
    return words.subarray(at - size, at);
  };
  const [ids, positions, parents] = [section(t), section(t), section(t)];
  const [first, slots, , acceptedFirst] = [section(seqs + 1), section(seqs), section(seqs), section(seqs + 1)];
  section(acceptedFirst[seqs] as number);
  section(seqs * maxPages);
  const rowAt = section(rows);
  const vocab = logits.length / rows;
  const found = new Map<number, Row[]>();
  for (let seq = 0; seq < seqs; seq++) {
    const [from, to] = [first[seq] as number, first[seq + 1] as number];
    const own: Row[] = [];
    rowAt.forEach((token, row) => {
      if (token < from || token >= to) return;
      const isDecode = words[0] === 1;
      own.push({
        id: ids[token] as number,
        position: positions[token] as number,
        parent: isDecode && (parents[token] as number) >= 0 ? (parents[token] as number) - from : -1,
        logits: logits.slice(row * vocab, (row + 1) * vocab),
      });
    });
    found.set(slots[seq] as number, own);
  }
  return found;
}

export interface Run {
  readonly prompt: Int32Array;
  readonly options: SamplingOptions;
  readonly tokens: number;
  readonly speculate?: Speculation | undefined;
  /** Gets the rows of the sequence in every step. */
  readonly watch?: Watcher;
}

const sessions = new WeakMap<Model, Session>();

/** The session of a model, found by making it run something. */
async function sessionOf(model: Model): Promise<Session> {
  const known = sessions.get(model);
  if (known) return known;
  await model.complete(Int32Array.of(1), { maxTokens: 1 });
  sessions.set(model, lastSession as Session);
  return lastSession as Session;
}

/** Generates as `model.generate` does, in a sequence whose steps can be watched. */
export async function decode(
  model: Model,
  { prompt, options, tokens, speculate, watch }: Run,
): Promise<{ ids: number[]; stats: SpeculationStats | undefined }> {
  const session = await sessionOf(model);
  const host = hostOf(model);
  const { scheduler, vocab, tokenizer } = host;
  const state = await scheduler.open();
  const watched = watchers.get(session) ?? new Map<number, Watcher>();
  watchers.set(session, watched);
  if (watch) watched.set(state.slot, watch);
  const sampler = new Sampler(options, vocab);
  let speculator: Speculator | undefined;
  try {
    append(state, prompt, host);
    const sampling = { ...options, seed: sampler.seed };
    const target: SpeculationTarget = { vocab, context: scheduler.limits.context, sampling, tokenizer };
    if (speculate) speculator = new Speculator(await speculate(targetOf(host, target)), vocab);
    const capacity = prompt.length + tokens;
    await scheduler.run({ state, target: prompt.length, capacity, sampler, speculator, onToken: () => true });
    return { ids: state.ids.slice(prompt.length), stats: speculator?.stats };
  } finally {
    await speculator?.dispose();
    watched.delete(state.slot);
    scheduler.close(state);
  }
}

/** What plain decoding gives: tokens, and the logits after every position from the prompt's last on. */
export interface Plain {
  readonly ids: readonly number[];
  readonly logits: ReadonlyMap<number, Float32Array>;
}

export async function decodePlainly(model: Model, run: Run): Promise<Plain> {
  const logits = new Map<number, Float32Array>();
  const watch: Watcher = (rows) => {
    for (const row of rows) logits.set(row.position, row.logits);
  };
  const { ids } = await decode(model, { ...run, watch });
  return { ids, logits };
}

/** Holds the logits of every node that came true against those of plain decoding. */
export class Comparison {
  /** Positions whose logits were the same bits, and those whose were not. */
  readonly same = new Set<number>();
  readonly different = new Set<number>();
  readonly #all: readonly number[];
  readonly #plain: Plain;

  constructor(prompt: Int32Array, plain: Plain) {
    this.#all = [...prompt, ...plain.ids];
    this.#plain = plain;
  }

  readonly watch: Watcher = (rows) => {
    const isTrue: boolean[] = [];
    for (const { id, position, parent, logits } of rows) {
      const came = id === this.#all[position] && (parent < 0 || (isTrue[parent] as boolean));
      isTrue.push(came);
      const plain = this.#plain.logits.get(position);
      if (!came || !plain) continue;
      const isSame = Buffer.compare(bytesOf(logits), bytesOf(plain)) === 0;
      (isSame ? this.same : this.different).add(position);
    }
  };
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

/** A drafter that is asked for `length` tokens in every step. */
export const withLength =
  (speculate: Speculation, length: number): Speculation =>
  async (target) => {
    const drafter = await speculate(target);
    return {
      length,
      propose: (request) => drafter.propose(request),
      observe: (outcome) => drafter.observe?.(outcome),
      dispose: () => drafter.dispose?.(),
    };
  };

/** A drafter that knows the plain output and spoils some of it; with `width` > 1 each right token stands among wrong siblings. */
export const oracle =
  (
    plain: readonly number[],
    promptLength: number,
    isRight: (position: number) => boolean,
    { width = 1, longest = 6 } = {},
  ): Speculation =>
  ({ vocab }) => ({
    propose({ ids, limit }) {
      const start = ids.length - promptLength;
      const chain = plain
        .slice(start, start + Math.min(limit, longest))
        .map((id, i) => (isRight(start + i) ? id : (id + 1) % vocab));
      return width === 1 ? { ids: chain } : amongSiblings(chain, { width, vocab, limit });
    },
  });

/** Each token after `width - 1` wrong siblings; the chain goes on from the right one. */
function amongSiblings(
  chain: readonly number[],
  { width, vocab, limit }: { width: number; vocab: number; limit: number },
): Draft {
  const ids: number[] = [];
  const parents: number[] = [];
  let parent = -1;
  for (const id of chain) {
    for (let sibling = 0; sibling < width && ids.length < limit; sibling++) {
      ids.push((id + width - 1 - sibling) % vocab);
      parents.push(parent);
    }
    parent = ids.length - 1;
  }
  return { ids, parents };
}

/** True for half of the positions, at random. */
export const halfOf =
  (seed: number) =>
  (position: number): boolean =>
    (Math.imul(position * 2654435761 + seed, 40503) >>> 16) % 2 === 0;

/** Right for two tokens, wrong for the third, so accepts are partial; and every other round has no draft. */
export const partial = (plain: readonly number[], promptLength: number): Speculation => {
  const inner = oracle(plain, promptLength, (position) => position % 3 !== 2);
  return async (target) => {
    const drafter = await inner(target);
    let round = 0;
    return { propose: (request) => (round++ % 2 === 0 ? drafter.propose(request) : { ids: [] }) };
  };
};
