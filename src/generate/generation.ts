import type { DraftShape } from '../draft-models.js';
import { mismatch } from '../errors.js';
import type { KvType } from '../ops/flash-attention.js';
import type { SequenceState } from '../state/sequence-state.js';
import type { Tokenizer, TokenStream } from '../text/index.js';
import { turn } from '../turn.js';
import {
  type Completion,
  checkMaxTokens,
  checkStops,
  type FinishReason,
  type GenerateOptions,
  type GenerationStats,
  type Piece,
  type Prompt,
} from './options.js';
import { Sampler } from './sampling.js';
import type { Scheduler } from './scheduler.js';
import { checkPriority } from './scheduler-ranks.js';
import { type SpeculationStats, Speculator, targetOf } from './speculation.js';
import { StopMatcher } from './stop.js';
import type { Task } from './task.js';

/** Where a generation runs. */
export interface GenerationHost {
  readonly scheduler: Scheduler;
  readonly vocab: number;
  readonly tokenizer: Tokenizer | undefined;
  readonly plannedBytes: number;
  /** Native memory of a sequence's recurrent states, and of one page of the cache. */
  readonly slotBytes: number;
  readonly pageBytes: number;
  /** What a saved sequence is held against. */
  readonly fingerprint: string;
  readonly activations: 'fast' | 'exact';
  readonly kv: KvType;
  /** What drafts with the model's weights: choices of the first ids, and the likeliest tokens instead of logits. */
  drafts(shape: DraftShape): Promise<Scheduler>;
  /** A sequence that holds a prompt. */
  prepare(prompt: Prompt, options: GenerateOptions): Promise<Prepared>;
}

/** A sequence with its prompt appended, and what to do with it afterwards. */
export interface Prepared {
  readonly state: SequenceState;
  readonly promptIds: readonly number[];
  /** Called once, however the generation ends. */
  release(): void;
  /** Most tokens of the sequence, where it is less than the model's context. */
  readonly context?: number;
  /** Generates instead of the scheduler. */
  run?(task: Task, signal: AbortSignal): Promise<void>;
  /** How `run` did. */
  speculation?(): SpeculationStats;
}

/**
 * Text as it is generated: `for await (const piece of generation)`. Leaving the loop cancels. `completion()` collects everything instead.
 * Reading it again generates anew.
 */
export class Generation implements AsyncIterable<Piece> {
  readonly #host: GenerationHost;
  readonly #options: GenerateOptions;
  readonly #prepare: () => Promise<Prepared>;
  #stats: GenerationStats | undefined;
  #promptIds: readonly number[] = [];

  constructor(host: GenerationHost, options: GenerateOptions, prepare: () => Promise<Prepared>) {
    this.#host = host;
    this.#options = options;
    this.#prepare = prepare;
  }

  /** Known when the generation has ended by itself. */
  get stats(): GenerationStats | undefined {
    return this.#stats;
  }

  /** The tokens of the prompt; empty until the first piece is asked for. */
  get promptIds(): readonly number[] {
    return this.#promptIds;
  }

  async completion(): Promise<Completion> {
    const ids: number[] = [];
    let text = '';
    for await (const piece of this) {
      text += piece.text;
      for (const id of piece.ids) ids.push(id);
    }
    return { text, ids, promptIds: this.#promptIds, stats: this.#stats as GenerationStats };
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    const options = this.#options;
    const start = performance.now();
    const maxTokens = checkMaxTokens(options.maxTokens);
    const sampler = new Sampler(options, this.#host.vocab);
    const stops = new StopMatcher(checkStops(options.stop));
    const priority = checkPriority(options.priority);
    options.signal?.throwIfAborted();
    const output = new Output(this.#host.tokenizer, stops, options.ignoreEos ?? false);
    const { scheduler } = this.#host;
    const prepared = await this.#prepare();
    const { state, promptIds, release, context = scheduler.limits.context } = prepared;
    this.#promptIds = promptIds;
    await turn();
    const cancel = new AbortController();
    const signal = options.signal ? AbortSignal.any([options.signal, cancel.signal]) : cancel.signal;
    const known = state.ids.length;
    const capacity = Math.min(known + maxTokens, context);
    let running: Promise<void> | undefined;
    let speculator: Speculator | undefined;
    try {
      speculator = await this.#speculator(sampler);
      const onToken = (id: number): boolean => output.token(id);
      const task: Task = {
        state,
        target: state.ids.length,
        capacity,
        priority,
        sharesPrefix: true,
        sampler,
        speculator,
        onToken,
      };
      running = (prepared.run ? prepared.run(task, signal) : scheduler.run(task, signal))
        .then(
          () => output.end(known + output.count >= context ? 'context' : 'length'),
          (error: unknown) => output.fail(error),
        )
        .finally(release); // its place is free, however long the reader takes
      for (;;) {
        const piece = await output.next();
        if (piece === undefined) break;
        yield piece;
      }
      const prompt = { promptTokens: promptIds.length, cachedPromptTokens: task.cachedTokens ?? 0 };
      const stats = statsOf(output, sampler, prompt, start, this.#host.plannedBytes);
      const speculation = speculator?.stats ?? prepared.speculation?.();
      this.#stats = speculation ? { ...stats, speculation } : stats;
    } finally {
      cancel.abort();
      if (running) await running;
      else release();
      await speculator?.dispose();
    }
  }

  async #speculator(sampler: Sampler): Promise<Speculator | undefined> {
    const { speculate } = this.#options;
    if (speculate === undefined) return undefined;
    if (typeof speculate !== 'function')
      throw mismatch('INVALID_ARGUMENT', 'speculate', 'a function such as promptLookup()', typeof speculate);
    const { vocab, scheduler, tokenizer } = this.#host;
    const sampling = { ...this.#options, seed: sampler.seed };
    const target = { vocab, context: scheduler.limits.context, sampling, tokenizer };
    const drafter = await speculate(targetOf(this.#host, target));
    return new Speculator(drafter, vocab);
  }
}

function statsOf(
  output: Output,
  sampler: Sampler,
  prompt: Pick<GenerationStats, 'promptTokens' | 'cachedPromptTokens'>,
  start: number,
  peakBytes: number,
): GenerationStats {
  const firstTokenMs = output.firstAt - start;
  const decodeMs = output.lastAt - output.firstAt;
  return {
    ...prompt,
    tokens: output.count,
    firstTokenMs,
    decodeMs,
    tokensPerSecond: output.count > 1 && decodeMs > 0 ? ((output.count - 1) / decodeMs) * 1000 : 0,
    promptTokensPerSecond: firstTokenMs > 0 ? (prompt.promptTokens / firstTokenMs) * 1000 : 0,
    finishReason: output.reason,
    seed: sampler.seed,
    peakBytes,
  };
}

/** Tokens in, pieces of text out; the reader waits here. */
class Output {
  count = 0;
  firstAt = 0;
  lastAt = 0;
  reason: FinishReason = 'length';
  readonly #stream: TokenStream | undefined;
  readonly #endIds: ReadonlySet<number>;
  readonly #stops: StopMatcher;
  #text = '';
  #ids: number[] = [];
  #ended = false;
  #error: { reason: unknown } | undefined;
  #wake: (() => void) | undefined;

  constructor(tokenizer: Tokenizer | undefined, stops: StopMatcher, ignoreEos: boolean) {
    this.#stream = tokenizer?.stream({ skipSpecialTokens: true });
    this.#endIds = new Set(ignoreEos ? [] : tokenizer?.endIds);
    this.#stops = stops;
  }

  /** Takes a chosen token; false when it ends the generation. */
  token(id: number): boolean {
    this.lastAt = performance.now();
    if (this.count++ === 0) this.firstAt = this.lastAt;
    this.#ids.push(id);
    if (this.#stream) this.#text += this.#stops.push(this.#stream.push(id));
    const ends = this.#endIds.has(id);
    if (ends) this.reason = 'eos';
    if (this.#stops.found !== undefined) this.reason = 'stop';
    this.#notify();
    return !ends && this.#stops.found === undefined;
  }

  /** No more tokens come; `reason` is why, unless a token already said so. */
  end(reason: FinishReason): void {
    if (this.#stream && this.#stops.found === undefined)
      this.#text += this.#stops.push(this.#stream.end()) + this.#stops.end();
    if (this.reason === 'length') this.reason = reason;
    this.#ended = true;
    this.#notify();
  }

  fail(reason: unknown): void {
    this.#error = { reason };
    this.#notify();
  }

  /** The next piece; undefined at the end. */
  async next(): Promise<Piece | undefined> {
    for (;;) {
      if (this.#error) throw this.#error.reason;
      const ready = this.#stream ? this.#text !== '' : this.#ids.length > 0;
      if (ready || (this.#ended && this.#ids.length > 0)) {
        const piece = { text: this.#text, ids: this.#ids };
        this.#text = '';
        this.#ids = [];
        return piece;
      }
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #notify(): void {
    this.#wake?.();
    this.#wake = undefined;
  }
}
