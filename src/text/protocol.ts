import type { ErrorCode } from '../errors.js';
import type { ByteTable } from './byte-table.js';
import type { TokenizerSource } from './sources.js';

/** What the main thread asks of the worker. `tokenizer` is the number `open` gave. */
export type Request =
  | { kind: 'open'; source: TokenizerSource }
  | { kind: 'encode'; tokenizer: number; text: string; addSpecialTokens: boolean; parseSpecial: boolean }
  | { kind: 'decode'; tokenizer: number; ids: number[]; skipSpecialTokens: boolean }
  | { kind: 'render'; tokenizer: number; chat: ChatRequest }
  | { kind: 'close'; tokenizer: number };

export interface ChatRequest {
  messages: unknown[];
  tools: unknown[] | null;
  documents: unknown[] | null;
  addGenerationPrompt: boolean;
  /** The clock of `strftime_now`, as milliseconds of local time. */
  now: number;
  variables: Record<string, unknown>;
}

export interface SpecialToken {
  id: number;
  text: string;
}

export interface Opened {
  tokenizer: number;
  table: ByteTable;
  decodesByBytes: boolean;
  specialTokens: Record<string, SpecialToken>;
  endIds: number[];
  chatTemplate: string | undefined;
}

export interface Replies {
  open: Opened | undefined;
  encode: Int32Array<ArrayBuffer>;
  decode: string;
  render: string;
  close: undefined;
}

export type ToWorker = { id: number; request: Request } | { id: number; abort: true };

export interface WireError {
  code: ErrorCode;
  message: string;
  operand: string | undefined;
  expected: string | undefined;
  got: string | undefined;
  cause: { name: string; message: string } | undefined;
}

export type FromWorker = { id: number; value: Replies[keyof Replies] } | { id: number; error: WireError };
