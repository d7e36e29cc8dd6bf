// What the tests of generation share: the model that ships, and errors as values.
import { expect } from 'vitest';
import { CrosscurrentError, errorCodes, type LoadOptions, load, type Model, type Piece } from '../../src/index.js';
import { tinyGguf } from '../support/models.js';

export const capital = 'What is the capital of France?';
/** What the model that ships answers to it, greedily. */
export const answer = 'The capital of France is Paris.';

export const loadTiny = (options: LoadOptions = {}): Promise<Model> =>
  load(tinyGguf, { context: 512, sequences: 4, ...options });

/** The error of a call, thrown or rejected, checked to be of the library. */
export async function errorOf(work: () => unknown): Promise<CrosscurrentError> {
  const error = await reasonOf(work);
  expect(error).toBeInstanceOf(CrosscurrentError);
  expect(errorCodes).toContain((error as CrosscurrentError).code);
  return error as CrosscurrentError;
}

/** Whatever a call throws or rejects with. */
export async function reasonOf(work: () => unknown): Promise<unknown> {
  try {
    await work();
  } catch (reason) {
    return reason;
  }
  throw new Error('nothing was thrown');
}

export async function collect(pieces: AsyncIterable<Piece>): Promise<{ text: string; ids: number[]; pieces: Piece[] }> {
  const all: Piece[] = [];
  for await (const piece of pieces) all.push(piece);
  return { text: all.map(({ text }) => text).join(''), ids: all.flatMap(({ ids }) => [...ids]), pieces: all };
}

/** Token ids of no meaning, the same every time. */
export const someIds = (length: number, salt = 0): Int32Array =>
  Int32Array.from({ length }, (_, i) => 20 + ((Math.imul(i + salt * 977, 2654435761) >>> 9) % 40_000));

export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if ((values[i] as number) > (values[best] as number)) best = i;
  return best;
}
