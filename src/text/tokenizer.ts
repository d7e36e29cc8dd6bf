import { createHash } from 'node:crypto';
import { CrosscurrentError, mismatch } from '../errors.js';
import { turn } from '../turn.js';
import type { ByteTable } from './byte-table.js';
import { TextWorker } from './client.js';
import type { ChatRequest, Opened, Replies, Request, SpecialToken } from './protocol.js';
import type { TokenizerSource } from './sources.js';
import { type StreamOptions, TokenStream } from './stream.js';

export interface EncodeOptions {
  /** Puts the tokens around the text that the model was trained with (a bos token, say). Default: true. */
  addSpecialTokens?: boolean;
  /** Reads `<|im_start|>` and the like as control tokens. Off, they are the plain text a user typed. Default: false. */
  parseSpecial?: boolean;
  signal?: AbortSignal;
}

export interface DecodeOptions {
  /** Leaves out control tokens such as `<|im_end|>`. Default: false. */
  skipSpecialTokens?: boolean;
}

/** A message as chat templates read it; templates may know further keys. */
export interface ChatMessage {
  role: string;
  content?: unknown;
  [key: string]: unknown;
}

export interface ChatOptions {
  /** Ends with the opening of the assistant's turn. Default: true. */
  addGenerationPrompt?: boolean;
  tools?: readonly unknown[] | undefined;
  documents?: readonly unknown[] | undefined;
  /** What `strftime_now` sees. Default: the clock. */
  now?: Date;
  /** Further variables of the template, `enable_thinking` for one. */
  variables?: Record<string, unknown>;
  signal?: AbortSignal;
}

/** Ids decoded in one go (0.1 ms); longer lists are decoded in turns of the event loop. */
const decodeTurn = 4096;

/**
 * The tokenizer and the chat template of a source, or nothing where it has no tokenizer.
 *
 * Work is done in a worker thread that all tokenizers of the process share; the event loop is never held.
 *
 * @throws CrosscurrentError IO, INVALID_FILE or UNSUPPORTED_FORMAT; the reason of `signal`.
 */
export async function openTokenizer(
  source: TokenizerSource,
  options: { signal?: AbortSignal } = {},
): Promise<Tokenizer | undefined> {
  options.signal?.throwIfAborted();
  // the parts of starting the worker take 1 to 3 ms each: not in one turn with what the caller just did
  await turn();
  TextWorker.prepare();
  await turn();
  const worker = TextWorker.acquire();
  await turn();
  let opened: Opened | undefined;
  try {
    opened = await worker.ask({ kind: 'open', source }, options.signal);
    return opened && new Tokenizer(source, worker, opened);
  } finally {
    if (opened === undefined) await worker.release();
  }
}

/** Text to token ids and back, and the chat template of a model. Made by `openTokenizer`. */
export class Tokenizer implements AsyncDisposable {
  private readonly table: ByteTable;
  private readonly decodesByBytes: boolean;
  private handle: number;
  private reopening: Promise<void> | undefined;
  private closed: Promise<void> | undefined;
  private hash: string | undefined;

  /** One more than the largest token id. */
  readonly vocabSize: number;
  /** `bos`, `eos`, `unk`, `pad`, … as far as the model names them. */
  readonly specialTokens: Readonly<Record<string, SpecialToken>>;
  /** Every id that ends a generation. */
  readonly endIds: readonly number[];
  /** The source of the chat template, where there is one. */
  readonly chatTemplate: string | undefined;

  /** @internal */
  constructor(
    private readonly source: TokenizerSource,
    private worker: TextWorker,
    opened: Opened,
  ) {
    this.handle = opened.tokenizer;
    this.table = opened.table;
    this.decodesByBytes = opened.decodesByBytes;
    this.vocabSize = opened.table.size;
    this.specialTokens = opened.specialTokens;
    this.endIds = opened.endIds;
    this.chatTemplate = opened.chatTemplate;
  }

  /** Equal for tokenizers whose ids stand for the same bytes. */
  get fingerprint(): string {
    this.hash ??= createHash('sha256').update(this.table.offsets).update(this.table.bytes).digest('hex').slice(0, 16);
    return this.hash;
  }

  /** The token ids of a text. */
  async encode(text: string, options: EncodeOptions = {}): Promise<Int32Array<ArrayBuffer>> {
    if (typeof text !== 'string') throw mismatch('INVALID_ARGUMENT', 'text', 'a string', typeof text);
    const { addSpecialTokens = true, parseSpecial = false, signal } = options;
    return this.ask((tokenizer) => ({ kind: 'encode', tokenizer, text, addSpecialTokens, parseSpecial }), signal);
  }

  /** The text of a list of ids. */
  async decode(ids: ArrayLike<number>, options: DecodeOptions = {}): Promise<string> {
    this.check();
    const skipSpecialTokens = options.skipSpecialTokens ?? false;
    const stream = new TokenStream(this.table, { skipSpecialTokens });
    let text = '';
    for (let from = 0; from < ids.length; from += decodeTurn) {
      if (from > 0) await turn();
      const to = Math.min(ids.length, from + decodeTurn);
      for (let i = from; i < to; i++) this.checkId(ids[i]!, i);
      if (this.decodesByBytes) text += stream.pushAll(ids, from, to);
    }
    if (this.decodesByBytes) return text + stream.end();
    return this.ask((tokenizer) => ({ kind: 'decode', tokenizer, ids: Array.from(ids), skipSpecialTokens }));
  }

  /** A synchronous decoder for ids that come one by one; it needs no worker. */
  stream(options: StreamOptions = {}): TokenStream {
    this.check();
    return new TokenStream(this.table, options);
  }

  /**
   * The prompt of a conversation. Encode it with `{ addSpecialTokens: false, parseSpecial: true }`.
   *
   * @throws CrosscurrentError MISSING_TEMPLATE; TEMPLATE_ERROR when the template raises or cannot be read.
   */
  async renderChat(messages: readonly ChatMessage[], options: ChatOptions = {}): Promise<string> {
    if (!Array.isArray(messages)) throw mismatch('INVALID_ARGUMENT', 'messages', 'an array', typeof messages);
    const now = options.now ?? new Date();
    const chat: ChatRequest = {
      messages: messages as unknown[],
      tools: (options.tools as unknown[]) ?? null,
      documents: (options.documents as unknown[]) ?? null,
      addGenerationPrompt: options.addGenerationPrompt ?? true,
      now: now.getTime(),
      variables: options.variables ?? {},
    };
    return this.ask((tokenizer) => ({ kind: 'render', tokenizer, chat }), options.signal);
  }

  /** Idempotent. The worker ends with the last tokenizer. */
  dispose(): Promise<void> {
    this.closed ??= (async () => {
      await this.reopening?.catch(() => {});
      if (!this.worker.hasFailed) await this.worker.ask({ kind: 'close', tokenizer: this.handle }).catch(() => {});
      await this.worker.release();
    })();
    return this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  private checkId(id: number, place: number): void {
    if (Number.isInteger(id) && id >= 0 && id < this.vocabSize) return;
    throw mismatch('TOKEN_OUT_OF_RANGE', `ids[${place}]`, `a token id below ${this.vocabSize}`, id);
  }

  private check(): void {
    if (this.closed) throw new CrosscurrentError('DISPOSED', 'tokenizer: used after dispose');
  }

  private async ask<K extends Request['kind']>(
    request: (tokenizer: number) => Extract<Request, { kind: K }>,
    signal?: AbortSignal,
  ): Promise<Replies[K]> {
    this.check();
    signal?.throwIfAborted();
    if (this.worker.hasFailed) {
      this.reopening ??= this.reopen().finally(() => {
        this.reopening = undefined;
      });
      await this.reopening;
      this.check();
    }
    return this.worker.ask(request(this.handle), signal);
  }

  /** The worker may have died of another's text: this tokenizer goes on in a new one. */
  private async reopen(): Promise<void> {
    const failed = this.worker;
    const worker = TextWorker.acquire();
    try {
      const opened = await worker.ask({ kind: 'open', source: this.source });
      if (opened === undefined)
        throw new CrosscurrentError('FILE_CHANGED', `${this.source.path}: no longer has a tokenizer`);
      this.worker = worker;
      this.handle = opened.tokenizer;
      void failed.release();
    } catch (error) {
      void worker.release();
      throw error;
    }
  }
}
