import { parentPort } from 'node:worker_threads';
import { CrosscurrentError } from '../errors.js';
import { Encoder, partCharacters } from './encoder.js';
import { ChatRenderer } from './jinja/chat.js';
import type { FromWorker, Opened, Request, ToWorker, WireError } from './protocol.js';
import { readTokenizer, type TokenizerSource } from './sources.js';

// The tokenizers of a process live here: parsing, encoding and templates take longer than an event loop may be held.

interface Open {
  encoder: Encoder;
  chat: ChatRenderer;
}

const port = parentPort!;
const open = new Map<number, Open>();
const aborted = new Set<number>();
const running = new Set<number>();
let nextTokenizer = 1;

port.on('message', (message: ToWorker) => {
  if ('abort' in message) {
    if (running.has(message.id)) aborted.add(message.id);
    return;
  }
  void serve(message.id, message.request);
});

async function serve(id: number, request: Request): Promise<void> {
  running.add(id);
  try {
    await handle(id, request);
  } catch (error) {
    reply({ id, error: toWire(error) });
  } finally {
    running.delete(id);
    aborted.delete(id);
  }
}

function reply(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}

async function handle(id: number, request: Request): Promise<void> {
  switch (request.kind) {
    case 'open':
      return openTokenizer(id, request.source);
    case 'encode': {
      const ids = await encode(id, request);
      return reply({ id, value: ids }, [ids.buffer]);
    }
    case 'decode':
      return reply({ id, value: found(request.tokenizer).encoder.decode(request.ids, request.skipSpecialTokens) });
    case 'render':
      return reply({ id, value: found(request.tokenizer).chat.render(request.chat) });
    case 'close':
      open.delete(request.tokenizer);
      return reply({ id, value: undefined });
  }
}

function found(tokenizer: number): Open {
  const entry = open.get(tokenizer);
  if (entry === undefined) throw new CrosscurrentError('DISPOSED', 'tokenizer: used after dispose');
  return entry;
}

function openTokenizer(id: number, source: TokenizerSource): void {
  const files = readTokenizer(source);
  if (files === undefined) {
    reply({ id, value: undefined });
    return;
  }
  const encoder = new Encoder(files);
  const chat = new ChatRenderer(files.chatTemplates, encoder.special);
  const tokenizer = nextTokenizer++;
  open.set(tokenizer, { encoder, chat });
  const value: Opened = {
    tokenizer,
    table: encoder.table,
    decodesByBytes: encoder.decodesByBytes,
    specialTokens: encoder.special,
    endIds: encoder.endIds,
    chatTemplate: files.chatTemplates.get('default'),
  };
  const { bytes, offsets, flags } = encoder.table;
  reply({ id, value }, [bytes.buffer, offsets.buffer, flags.buffer]);
}

async function encode(id: number, request: Request & { kind: 'encode' }): Promise<Int32Array<ArrayBuffer>> {
  let ids = new Int32Array(Math.min(1 << 16, request.text.length + 8));
  let length = 0;
  for (const part of found(request.tokenizer).encoder.encode(request.text, request)) {
    if (length + part.length > ids.length) {
      const grown = new Int32Array(Math.max(ids.length * 2, length + part.length));
      grown.set(ids);
      ids = grown;
    }
    ids.set(part, length);
    length += part.length;
    if (request.text.length > partCharacters) await new Promise(setImmediate); // messages wait: an abort, other texts
    if (aborted.has(id)) throw new CrosscurrentError('ABORTED', 'encode: aborted');
  }
  return ids.slice(0, length);
}

function toWire(error: unknown): WireError {
  const known = error instanceof CrosscurrentError ? error : undefined;
  const cause = known ? known.cause : error;
  return {
    code: known?.code ?? 'INTERNAL',
    message: (error as Error).message,
    operand: known?.operand,
    expected: known?.expected,
    got: known?.got,
    cause: cause instanceof Error ? { name: cause.name, message: cause.message } : undefined,
  };
}
