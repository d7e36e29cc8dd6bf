import { CrosscurrentError, mismatch } from '../errors.js';
import { Sampler, type SamplingOptions } from '../generate/sampling.js';
import * as ops from '../ops/index.js';
import { checkArray, shown } from './arrays.js';
import { kernel, type Prepared } from './kernel.js';
import { object } from './weights.js';

/** How the token of one row is chosen. */
export interface RowOptions extends SamplingOptions {
  /** Of the token to be chosen: with the seed it makes the random number. 0 unless given. */
  position?: number;
  /** Ids that the penalties count. */
  history?: Int32Array;
}

export interface SampleOptions {
  /** One for all rows, or one a row; greedy unless given. */
  options?: RowOptions | readonly RowOptions[];
}

const headerWords = 8;
const sampleWords = 10;

/** The token ids of rows of logits; -1 where none can be chosen. */
export const sample = kernel<
  typeof ops.sample.declaration.inputs,
  typeof ops.sample.declaration.attrs,
  typeof ops.sample.declaration.outputs,
  object,
  SampleOptions
>(ops.sample, { prepare, keys: ['options'], free: [['rows', () => 1]] });

export interface TopProbabilitiesOptions {
  /** Of the softmax; 1 unless given. */
  temperature?: number;
}

/** The `topK` likeliest tokens of rows of logits: pairs of an id and its probability, likeliest first. */
export const topProbabilities = kernel<
  typeof ops.topProbabilities.declaration.inputs,
  typeof ops.topProbabilities.declaration.attrs,
  typeof ops.topProbabilities.declaration.outputs,
  object,
  TopProbabilitiesOptions
>(ops.topProbabilities, {
  prepare: ({ temperature = 1, ...args }, call) => prepare({ ...args, options: { temperature } }, call),
  keys: ['temperature'],
  free: [['rows', () => 1]],
});

function prepare(args: Readonly<Record<string, unknown>>, { name, axes, options }: Prepared): void {
  checkArray(`${name}: logits`, args.logits, 'Float32Array');
  const { length } = args.logits as Float32Array;
  const given = args.options ?? {};
  const vocabGiven = axes.get('vocab');
  const rows = axes.get('rows') ?? (Array.isArray(given) ? given.length : vocabGiven ? length / vocabGiven : 1);
  if (!Number.isInteger(rows) || rows < 1 || length % rows !== 0 || (vocabGiven && length !== rows * vocabGiven))
    throw mismatch('INVALID_ARGUMENT', `${name}: logits`, `rows of one length for ${rows} rows`, `${length} elements`);
  if (Array.isArray(given) && given.length !== rows)
    throw mismatch('INVALID_ARGUMENT', `${name}: options`, `one for each of ${rows} rows`, `${given.length}`);
  axes.set('rows', rows);
  const list = Array.from({ length: rows }, (_, row) => (Array.isArray(given) ? given[row] : given) as RowOptions);
  options.sampling = stepWords(name, list, length / rows);
}

/** A step of one token with the options of its rows (format: native/step.cpp). */
function stepWords(name: string, list: readonly RowOptions[], vocab: number): Int32Array {
  const rows = list.map((row, i) => checkRow(`${name}: options${list.length > 1 ? `[${i}]` : ''}`, row, vocab));
  const history = rows.reduce((sum, row) => sum + row.history.length, 0);
  const biases = rows.reduce((sum, row) => sum + row.sampler.biasIds.length, 0);
  // ids, position, parent; first and acceptedFirst of one sequence; its slot and length
  const token = [0, 0, -1, 0, 1, 0, 0, 0, 0];
  const words = new Int32Array(
    headerWords + token.length + rows.length + rows.length * sampleWords + 2 * (rows.length + 1) + history + 2 * biases,
  );
  const floats = new Float32Array(words.buffer);
  words.set([0, 1, 1, rows.length, 0, history, biases, 1]);
  words.set(token, headerWords);
  let at = headerWords + token.length + rows.length; // each row is that of the one token
  for (const { sampler, position } of rows) {
    sampler.write(words, floats, at, position);
    at += sampleWords;
  }
  at = writeRanges(
    words,
    at,
    rows.map((row) => row.history.length),
  );
  for (const row of rows) {
    words.set(row.history, at);
    at += row.history.length;
  }
  at = writeRanges(
    words,
    at,
    rows.map(({ sampler }) => sampler.biasIds.length),
  );
  for (const { sampler } of rows) {
    words.set(sampler.biasIds, at);
    floats.set(sampler.biasValues, at + biases);
    at += sampler.biasIds.length;
  }
  return words;
}

function writeRanges(words: Int32Array, start: number, counts: readonly number[]): number {
  let [at, total] = [start, 0];
  words[at++] = 0;
  for (const count of counts) words[at++] = total += count;
  return at;
}

function checkRow(label: string, row: RowOptions, vocab: number) {
  const { position = 0, history } = object(label, row) as RowOptions;
  if (!Number.isInteger(position) || position < 0 || position > 0x7fffffff)
    throw mismatch('INVALID_ARGUMENT', `${label}.position`, 'an integer, 0 or more', shown(position));
  if (history !== undefined && history.length !== 0) checkArray(`${label}.history`, history, 'Int32Array');
  try {
    return { sampler: new Sampler(row, vocab), position, history: history ?? new Int32Array(0) };
  } catch (error) {
    if (!(error instanceof CrosscurrentError) || error.operand === undefined) throw error;
    throw mismatch(error.code, `${label}.${error.operand}`, error.expected as string, error.got as string);
  }
}
