import type { DraftModels } from './draft-models.js';
import { CrosscurrentError, mismatch } from './errors.js';
import { Generation, type GenerationHost, type Prepared } from './generate/generation.js';
import type { Completion, GenerateOptions, Prompt } from './generate/options.js';
import { readSaved, restoreState } from './generate/saved-sequence.js';
import type { Scheduler, SchedulerStats } from './generate/scheduler.js';
import { append, Sequence } from './generate/sequence.js';
import type { Program } from './graph/compile.js';
import type { CheckpointInfo, MemoryPlan } from './model-plan.js';
import type { KvType } from './ops/flash-attention.js';
import type { ChatMessage, DecodeOptions, EncodeOptions, Tokenizer } from './text/index.js';

export interface ModelInfo extends CheckpointInfo {
  readonly device: 'cpu';
  /** Kernel level in use. */
  readonly isa: string;
  readonly activations: 'fast' | 'exact';
  /** What the attention cache keeps keys and values as; f32 for models without attention. */
  readonly kv: KvType;
  /** Most tokens of a sequence. */
  readonly context: number;
  /** Differs between models: what a saved sequence is held against. 16 hexadecimal digits. */
  readonly fingerprint: string;
  readonly memory: MemoryPlan & {
    /** Of models that draft with its weights (`draftModel`, `selfDraft`), as far as they were asked for; part of `total`. */
    readonly drafting: number;
  };
}

/** How often the experts of a layer were chosen. */
export interface ExpertLoad {
  /** Of the layer, as in `program.labels`: `layers.0`. */
  readonly name: string;
  /** [experts]: rows that each was given. Every row of a step counts `topK` times, rows of drafts that proved wrong as well. */
  readonly rows: readonly number[];
}

export interface ModelStats extends SchedulerStats {
  /** Of models with routed experts: their load since the model was loaded, layer by layer. */
  readonly experts?: readonly ExpertLoad[];
}

/** @internal What `load` puts together. */
export interface ModelParts {
  readonly info: Omit<ModelInfo, 'memory'> & { readonly memory: MemoryPlan };
  readonly program: Program;
  readonly scheduler: Scheduler;
  readonly tokenizer: Tokenizer | undefined;
  readonly draftModels?: DraftModels;
  /** By layer, by expert. */
  expertLoads?(): number[][];
  close(): Promise<void>;
}

const hosts = new WeakMap<Model, GenerationHost>();

/** @internal What drafters need of a model. @throws CrosscurrentError DISPOSED */
export function hostOf(model: Model): GenerationHost {
  const host = hosts.get(model);
  if (!host) throw new CrosscurrentError('DISPOSED', 'the model was disposed');
  return host;
}

/** A loaded model. Any number of generations may run on it at once; they share its steps. */
export class Model implements AsyncDisposable {
  readonly program: Program;
  readonly #parts: ModelParts;
  readonly #host: GenerationHost;
  #disposal: Promise<void> | undefined;

  /** @internal */
  constructor(parts: ModelParts) {
    this.program = parts.program;
    this.#parts = parts;
    const { vocab, memory, fingerprint, activations, kv } = parts.info;
    const { slots, pages } = parts.scheduler.limits;
    this.#host = {
      scheduler: parts.scheduler,
      vocab,
      tokenizer: parts.tokenizer,
      plannedBytes: memory.total,
      slotBytes: memory.states / slots,
      pageBytes: pages > 0 ? memory.cache / pages : 0,
      fingerprint,
      activations,
      kv,
      prepare: (prompt, options) => this.#prepare(prompt, options),
      drafts: async (shape) => {
        if (parts.draftModels) return parts.draftModels.open(shape);
        throw new CrosscurrentError('INVALID_ARGUMENT', 'layers: expected a model from load()');
      },
    };
    hosts.set(this, this.#host);
  }

  get info(): ModelInfo {
    const { info, draftModels } = this.#parts;
    const drafting = draftModels?.bytes ?? 0;
    return { ...info, memory: { ...info.memory, drafting, total: info.memory.total + drafting } };
  }

  /** Its tokenizer; undefined for a folder without one. */
  get tokenizer(): Tokenizer | undefined {
    return this.#parts.tokenizer;
  }

  /** Requests in work and waiting, and what earlier prompts have saved later ones, since it was loaded. */
  get stats(): ModelStats {
    const { scheduler, program, expertLoads } = this.#parts;
    const loads = this.#disposal ? [] : (expertLoads?.() ?? []);
    if (loads.length === 0) return scheduler.stats;
    return { ...scheduler.stats, experts: loads.map((rows, i) => ({ name: program.experts[i] as string, rows })) };
  }

  /**
   * Text that continues `prompt`, in pieces as it comes. Nothing runs until the first piece is asked for.
   *
   * @throws CrosscurrentError on iteration: INVALID_ARGUMENT, EMPTY_PROMPT, CONTEXT_OVERFLOW, TOKEN_OUT_OF_RANGE, MISSING_TOKENIZER, MISSING_TEMPLATE,
   *   TEMPLATE_ERROR, OUT_OF_MEMORY, QUEUE_FULL, DISPOSED; the reason of `signal`.
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    return new Generation(this.#host, options, () => this.#prepare(prompt, options));
  }

  /** The whole of what `generate` gives, with its statistics. */
  complete(prompt: Prompt, options: GenerateOptions = {}): Promise<Completion> {
    return this.generate(prompt, options).completion();
  }

  /** An empty sequence, to be fed and continued. Waits for a free place when the model holds as many as it was loaded for. */
  async sequence(options: { signal?: AbortSignal } = {}): Promise<Sequence> {
    this.#checkOpen();
    return new Sequence(this.#host, await this.#parts.scheduler.open(options.signal));
  }

  /**
   * A sequence from the bytes of `sequence.save()`, which must not change meanwhile. Waits for a free place.
   *
   * @throws CrosscurrentError INVALID_STATE when they are damaged or of another model, saying what differs.
   */
  async restore(bytes: Uint8Array, options: { signal?: AbortSignal } = {}): Promise<Sequence> {
    this.#checkOpen();
    const saved = await readSaved(this.#host, bytes);
    const state = await this.#parts.scheduler.open(options.signal);
    try {
      await restoreState(this.#host, state, saved);
    } catch (error) {
      this.#parts.scheduler.close(state);
      throw error;
    }
    return new Sequence(this.#host, state);
  }

  /** Logits of every token of `ids`, [t, vocab] in f32: row i scores what follows token i. */
  async logits(ids: ArrayLike<number>, options: { signal?: AbortSignal } = {}): Promise<Float32Array> {
    this.#checkOpen();
    if (ids.length === 0) throw new CrosscurrentError('EMPTY_PROMPT', 'ids: expected at least one token, got none');
    const { scheduler } = this.#parts;
    const state = await scheduler.open(options.signal);
    try {
      append(state, ids, this.#host);
      const result = new Float32Array(ids.length * this.info.vocab);
      const onLogits = (first: number, rows: Float32Array): void => result.set(rows, first * this.info.vocab);
      await scheduler.run({ state, target: ids.length, capacity: ids.length, onLogits }, options.signal);
      return result;
    } finally {
      scheduler.close(state);
    }
  }

  tokenize(text: string, options: EncodeOptions = {}): Promise<Int32Array> {
    return this.#needTokenizer().encode(text, options);
  }

  detokenize(ids: ArrayLike<number>, options: DecodeOptions = {}): Promise<string> {
    return this.#needTokenizer().decode(ids, options);
  }

  /** Ends running generations (they reject with DISPOSED) and frees everything. Idempotent. */
  dispose(): Promise<void> {
    this.#disposal ??= this.#close();
    return this.#disposal;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #close(): Promise<void> {
    hosts.delete(this);
    await this.#parts.scheduler.dispose();
    await this.#parts.tokenizer?.dispose();
    await this.#parts.close();
  }

  async #prepare(prompt: Prompt, options: GenerateOptions): Promise<Prepared> {
    this.#checkOpen();
    const ids = await this.#promptIds(prompt, options);
    if (ids.length === 0) throw new CrosscurrentError('EMPTY_PROMPT', 'prompt: expected at least one token, got none');
    const { scheduler } = this.#parts;
    if (ids.length >= scheduler.limits.context)
      throw mismatch(
        'CONTEXT_OVERFLOW',
        'prompt',
        `fewer than ${scheduler.limits.context} tokens (the context)`,
        ids.length,
      );
    const state = await scheduler.open(options.signal, options.priority);
    try {
      append(state, ids, this.#host);
    } catch (error) {
      scheduler.close(state);
      throw error;
    }
    return { state, promptIds: Array.from(ids), release: () => scheduler.close(state) };
  }

  #checkOpen(): void {
    if (this.#disposal) throw new CrosscurrentError('DISPOSED', 'the model was disposed');
  }

  #needTokenizer(): Tokenizer {
    this.#checkOpen();
    const { tokenizer } = this.#parts;
    if (!tokenizer)
      throw new CrosscurrentError(
        'MISSING_TOKENIZER',
        `${this.info.path}: no tokenizer there; pass token ids as an Int32Array`,
      );
    return tokenizer;
  }

  async #promptIds(prompt: Prompt, options: GenerateOptions): Promise<Int32Array> {
    if (prompt instanceof Int32Array) return prompt;
    const tokenizer = this.#needTokenizer();
    const signal = options.signal ? { signal: options.signal } : {};
    if (typeof prompt === 'string') {
      if (prompt === '') throw new CrosscurrentError('EMPTY_PROMPT', 'prompt: expected some text, got an empty string');
      if (options.raw || tokenizer.chatTemplate === undefined) return tokenizer.encode(prompt, signal);
      return this.#chatIds(tokenizer, [{ role: 'user', content: prompt }], options);
    }
    if (!Array.isArray(prompt))
      throw mismatch('INVALID_ARGUMENT', 'prompt', 'a string, messages or an Int32Array', typeof prompt);
    return this.#chatIds(tokenizer, prompt as readonly ChatMessage[], options);
  }

  async #chatIds(
    tokenizer: Tokenizer,
    messages: readonly ChatMessage[],
    options: GenerateOptions,
  ): Promise<Int32Array> {
    if (messages.length === 0)
      throw new CrosscurrentError('EMPTY_PROMPT', 'prompt: expected at least one message, got none');
    const signal = options.signal ? { signal: options.signal } : {};
    const variables = options.templateVariables ? { variables: options.templateVariables } : {};
    const tools = options.tools ? { tools: options.tools } : {};
    const text = await tokenizer.renderChat(messages, { ...variables, ...tools, ...signal });
    return tokenizer.encode(text, { parseSpecial: true, addSpecialTokens: false, ...signal });
  }
}
