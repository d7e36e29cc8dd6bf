import { randomBytes } from 'node:crypto';
import { mismatch } from '../errors.js';

/** How tokens are chosen. Every option has a default; greedy when nothing is given. */
export interface SamplingOptions {
  /** 0 (the default) takes the likeliest token; larger is more random. */
  temperature?: number;
  /** Only the `topK` likeliest tokens; 0 (the default) for all. */
  topK?: number;
  /** Only the likeliest tokens whose probabilities add up to `topP`; 1 (the default) for all. */
  topP?: number;
  /** Only tokens at least `minP` times as likely as the likeliest; 0 (the default) for all. */
  minP?: number;
  /** Divides (multiplies, when negative) the logits of tokens already in the sequence; 1 (the default) for none. */
  repetitionPenalty?: number;
  /** Subtracted from the logits of tokens already in the sequence. */
  presencePenalty?: number;
  /** Subtracted once for each time a token is already in the sequence. */
  frequencyPenalty?: number;
  /** Added to the logits of single tokens, by id; `-Infinity` forbids one. */
  logitBias?: Readonly<Record<number, number>>;
  /** Whole number (up to 64 bits as a bigint) that makes sampling reproducible; random when absent. */
  seed?: number | bigint;
}

/** Checked sampling options in the form of `SampleOptions` (native/step.h). */
export class Sampler {
  readonly seed: bigint;
  readonly biasIds: readonly number[];
  readonly biasValues: readonly number[];
  readonly usesHistory: boolean;
  readonly #floats: Float32Array;
  readonly #topK: number;
  readonly #choices: number;

  /** `choices`: the first ids, of which one is chosen, where not of all. */
  constructor(options: SamplingOptions, vocab: number, choices: number = vocab) {
    this.#choices = choices;
    const temperature = number(options, 'temperature', 0, 0, Number.MAX_VALUE);
    const topP = number(options, 'topP', 1, 0, 1);
    const minP = number(options, 'minP', 0, 0, 1);
    const repetition = number(options, 'repetitionPenalty', 1, 1e-3, 1e3);
    const presence = number(options, 'presencePenalty', 0, -1e3, 1e3);
    const frequency = number(options, 'frequencyPenalty', 0, -1e3, 1e3);
    const topK = options.topK ?? 0;
    if (!Number.isInteger(topK) || topK < 0)
      throw mismatch('INVALID_ARGUMENT', 'topK', 'an integer, 0 or more', show(topK));
    this.#topK = Math.min(topK, choices);
    this.#floats = Float32Array.of(temperature, topP, minP, repetition, presence, frequency);
    this.usesHistory = repetition !== 1 || presence !== 0 || frequency !== 0;
    this.seed = seedOf(options.seed);
    const all = Object.entries(options.logitBias ?? {});
    for (const [key] of all) {
      const id = Number(key);
      if (!Number.isInteger(id) || id < 0 || id >= vocab)
        throw mismatch('TOKEN_OUT_OF_RANGE', 'logitBias', `token ids 0..${vocab - 1}`, key);
    }
    const bias = all.filter(([key]) => Number(key) < choices);
    this.biasIds = bias.map(([key]) => Number(key));
    this.biasValues = bias.map(([key, value]) => {
      if (typeof value !== 'number' || Number.isNaN(value) || value === Number.POSITIVE_INFINITY)
        throw mismatch('INVALID_ARGUMENT', `logitBias[${key}]`, 'a number or -Infinity', show(value));
      return value;
    });
  }

  /** Those of a history that penalties can tell on. */
  counted(history: number[]): number[] {
    return history.every((id) => id < this.#choices) ? history : history.filter((id) => id < this.#choices);
  }

  /** Writes the ten words of one row; `position` is that of the token to be chosen. */
  write(words: Int32Array, floats: Float32Array, at: number, position: number): void {
    const [temperature, topP, minP, repetition, presence, frequency] = this.#floats as unknown as [
      number,
      number,
      number,
      number,
      number,
      number,
    ];
    floats[at] = temperature;
    words[at + 1] = this.#topK;
    floats[at + 2] = topP;
    floats[at + 3] = minP;
    floats[at + 4] = repetition;
    floats[at + 5] = presence;
    floats[at + 6] = frequency;
    words[at + 7] = Number(this.seed & 0xffffffffn) | 0;
    words[at + 8] = Number(this.seed >> 32n) | 0;
    words[at + 9] = position;
  }
}

const show = (value: unknown): string =>
  typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value));

function number(
  options: SamplingOptions,
  key: keyof SamplingOptions,
  fallback: number,
  low: number,
  high: number,
): number {
  const value = options[key] ?? fallback;
  if (typeof value !== 'number' || !(value >= low && value <= high))
    throw mismatch(
      'INVALID_ARGUMENT',
      key,
      high === Number.MAX_VALUE ? `a number, ${low} or more` : `a number, ${low}..${high}`,
      show(value),
    );
  return value;
}

function seedOf(seed: number | bigint | undefined): bigint {
  if (seed === undefined) return randomBytes(8).readBigUInt64LE();
  if (typeof seed === 'number' && !Number.isSafeInteger(seed))
    throw mismatch('INVALID_ARGUMENT', 'seed', 'a whole number', show(seed));
  if (typeof seed !== 'number' && typeof seed !== 'bigint')
    throw mismatch('INVALID_ARGUMENT', 'seed', 'a whole number', show(seed));
  return BigInt.asUintN(64, BigInt(seed));
}
