import type { SequenceState } from '../state/sequence-state.js';
import type { Sampler } from './sampling.js';

export const stepClass = { prefill: 0, decode: 1 } as const;
const headerWords = 8;
const sampleWords = 10;

/** One sequence's part of a step. */
export interface StepEntry {
  readonly state: SequenceState;
  /** Tokens to run, a chain after the sequence's processed tokens. */
  readonly ids: readonly number[];
  /** Which of them want logits, as indices into `ids`. */
  readonly rows: readonly number[];
  /** Chooses a token for each row. */
  readonly sampler: Sampler | undefined;
}

/** The words of a step (format: native/step.cpp). Either every entry with rows has a sampler, or none. */
export function stepWords(kind: keyof typeof stepClass, entries: readonly StepEntry[]): Int32Array {
  const count = (size: (entry: StepEntry) => number): number => entries.reduce((sum, entry) => sum + size(entry), 0);
  const t = count(({ ids }) => ids.length);
  const seqs = entries.length;
  const rows = count((entry) => entry.rows.length);
  const accepted = count(({ state }) => state.accepted.length);
  const maxPages = Math.max(...entries.map(({ state }) => state.pages.length));
  const samples = entries.some(({ sampler }) => sampler !== undefined);
  const historyOf = ({ sampler, state, rows: wanted }: StepEntry): number =>
    sampler?.usesHistory && wanted.length > 0 ? state.ids.length : 0;
  const history = count(historyOf);
  const biases = count(({ sampler, rows: wanted }) => (wanted.length > 0 ? (sampler?.biasIds.length ?? 0) : 0));
  const sampling = samples ? rows * sampleWords + 2 * (rows + 1) + history + 2 * biases : 0;

  const words = new Int32Array(
    headerWords + 3 * t + 2 * (seqs + 1) + 2 * seqs + accepted + seqs * maxPages + rows + sampling,
  );
  const floats = new Float32Array(words.buffer);
  words.set([stepClass[kind], t, seqs, rows, maxPages, history, biases, samples ? 1 : 0]);
  let at = headerWords;
  const section = (size: number): number => {
    at += size;
    return at - size;
  };
  const ids = section(t);
  const position = section(t);
  const parent = section(t);
  const first = section(seqs + 1);
  const slot = section(seqs);
  const length = section(seqs);
  const acceptedFirst = section(seqs + 1);
  const acceptedAt = section(accepted);
  const pages = section(seqs * maxPages);
  const rowAt = section(rows);

  let token = 0;
  let row = 0;
  let node = 0;
  entries.forEach(({ state, ids: run, rows: wanted }, seq) => {
    words[first + seq] = token;
    words[slot + seq] = state.slot;
    words[length + seq] = state.length;
    words[acceptedFirst + seq] = node;
    words.set(state.accepted, acceptedAt + node);
    node += state.accepted.length;
    words.set(state.pages, pages + seq * maxPages);
    for (const index of wanted) words[rowAt + row++] = token + index;
    run.forEach((id, i) => {
      words[ids + token] = id;
      words[position + token] = state.processed + i;
      words[parent + token] = i === 0 ? -1 : token - 1;
      token++;
    });
  });
  words[first + seqs] = token;
  words[acceptedFirst + seqs] = node;
  if (samples) writeSampling(words, floats, section, entries, { rows, history, biases });
  return words;
}

function writeSampling(
  words: Int32Array,
  floats: Float32Array,
  section: (size: number) => number,
  entries: readonly StepEntry[],
  sizes: { rows: number; history: number; biases: number },
): void {
  const options = section(sizes.rows * sampleWords);
  const historyFirst = section(sizes.rows + 1);
  const history = section(sizes.history);
  const biasFirst = section(sizes.rows + 1);
  const biasIds = section(sizes.biases);
  const biasValues = section(sizes.biases);
  let row = 0;
  let past = 0;
  let bias = 0;
  for (const { state, sampler, rows } of entries) {
    for (const index of rows) {
      if (!sampler) continue;
      sampler.write(words, floats, options + row * sampleWords, state.processed + index + 1);
      words[historyFirst + row] = past;
      if (sampler.usesHistory) {
        words.set(state.ids, history + past);
        past += state.ids.length;
      }
      words[biasFirst + row] = bias;
      words.set(sampler.biasIds, biasIds + bias);
      floats.set(sampler.biasValues, biasValues + bias);
      bias += sampler.biasIds.length;
      row++;
    }
  }
  words[historyFirst + row] = past;
  words[biasFirst + row] = bias;
}
