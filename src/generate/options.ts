import { mismatch } from '../errors.js';
import type { ChatMessage } from '../text/index.js';
import type { SamplingOptions } from './sampling.js';
import type { Speculation, SpeculationStats } from './speculation.js';

/** Text (through the chat template when the model has one), chat messages, or token ids as they are. */
export type Prompt = string | readonly ChatMessage[] | Int32Array;

export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to generate; up to the end of the context when absent. */
  maxTokens?: number;
  /** Ends the text before any of these. */
  stop?: string | readonly string[];
  /** Goes on after an end-of-text token. Default: false. */
  ignoreEos?: boolean;
  /** A string prompt is plain text to be continued, not a user's message. Default: false. */
  raw?: boolean;
  /** Variables for the chat template. */
  templateVariables?: Readonly<Record<string, unknown>>;
  /** Tools as the chat template lists them. */
  tools?: readonly unknown[];
  /** Guesses tokens that are then verified together: faster when the guesses are good, the same output always. */
  speculate?: Speculation;
  /** Higher goes first where requests wait for each other; a level is worth a few hundred steps of waiting. -1000..1000. Default: 0. */
  priority?: number;
  signal?: AbortSignal;
}

export interface Piece {
  readonly text: string;
  /** The tokens that came since the last piece. */
  readonly ids: readonly number[];
}

/** `eos`: an end-of-text token; `stop`: a stop string; `length`: `maxTokens`; `context`: the context is full. */
export type FinishReason = 'eos' | 'stop' | 'length' | 'context';

export interface GenerationStats {
  readonly promptTokens: number;
  /** Those of them that did not have to be run, because an earlier prompt began with them. */
  readonly cachedPromptTokens: number;
  /** Tokens generated, an end-of-text token included. */
  readonly tokens: number;
  /** From the call to the first token, waiting included. */
  readonly firstTokenMs: number;
  /** From the first token to the last. */
  readonly decodeMs: number;
  /** Decoded tokens a second: `(tokens - 1) / decodeMs`; 0 for less than two tokens. */
  readonly tokensPerSecond: number;
  /** `promptTokens / firstTokenMs`, cached ones among them. */
  readonly promptTokensPerSecond: number;
  readonly finishReason: FinishReason;
  /** The seed that was used: the same seed, options and prompt give the same tokens. */
  readonly seed: bigint;
  /** Planned bytes of the model: weights, activations, states and cache. */
  readonly peakBytes: number;
  /** Of generations with `speculate`. */
  readonly speculation?: SpeculationStats;
}

export interface Completion {
  readonly text: string;
  readonly ids: readonly number[];
  readonly promptIds: readonly number[];
  readonly stats: GenerationStats;
}

export function checkMaxTokens(value: number | undefined): number {
  if (value === undefined) return Number.POSITIVE_INFINITY;
  if (!Number.isInteger(value) || value < 1)
    throw mismatch('INVALID_ARGUMENT', 'maxTokens', 'a positive integer', String(value));
  return value;
}

export function checkStops(value: string | readonly string[] | undefined): readonly string[] {
  const stops = value === undefined ? [] : typeof value === 'string' ? [value] : value;
  for (const stop of stops)
    if (typeof stop !== 'string' || stop === '')
      throw mismatch('INVALID_ARGUMENT', 'stop', 'strings that are not empty', stop);
  return stops;
}
