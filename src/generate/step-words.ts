import type { SequenceState } from '../state/sequence-state.js';
import type { Sampler } from './sampling.js';

export const stepClass = { prefill: 0, decode: 1 } as const;
const headerWords = 8;
const sampleWords = 10;

/** One sequence's part of a step. */
export interface StepEntry {
  readonly state: SequenceState;
  /** Tokens to run after the sequence's processed ones. */
  readonly ids: readonly number[];
  /** Index in `ids` of each token's parent, -1 for the last processed token; a chain when absent. */
  readonly parents?: readonly number[] | undefined;
  /** Which of them want logits, as indices into `ids`. */
  readonly rows: readonly number[];
  /** Chooses a token for each row. */
  readonly sampler: Sampler | undefined;
}

const parentOf = ({ parents }: StepEntry, index: number): number => parents?.[index] ?? index - 1;

/** Tokens from the first of the entry to `index`, along the parents. */
function pathTo(entry: StepEntry, index: number): number[] {
  const path: number[] = [];
  for (let node = index; node >= 0; node = parentOf(entry, node)) path.push(entry.ids[node] as number);
  return path.reverse();
}

/** What the penalties of each row count: the sequence up to the row's token. */
function historiesOf(entry: StepEntry): number[][] {
  const { state, rows, sampler } = entry;
  if (!sampler?.usesHistory) return [];
  const before = state.ids.slice(0, state.processed);
  return rows.map((row) => sampler.counted([...before, ...pathTo(entry, row)]));
}

/** Positions of the entry's tokens. */
function positionsOf(entry: StepEntry): number[] {
  const positions: number[] = [];
  for (let i = 0; i < entry.ids.length; i++) {
    const parent = parentOf(entry, i);
    positions.push(parent < 0 ? entry.state.processed : (positions[parent] as number) + 1);
  }
  return positions;
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
  const histories = entries.map((entry) => historiesOf(entry));
  const history = histories.flat().reduce((sum, { length }) => sum + length, 0);
  const biases = count(({ sampler, rows: wanted }) => wanted.length * (sampler?.biasIds.length ?? 0));
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
  const [ids, position, parent] = [section(t), section(t), section(t)];
  const [first, slot, length] = [section(seqs + 1), section(seqs), section(seqs)];
  const [acceptedFirst, acceptedAt] = [section(seqs + 1), section(accepted)];
  const [pages, rowAt] = [section(seqs * maxPages), section(rows)];
  let [token, row, node] = [0, 0, 0];
  entries.forEach((entry, seq) => {
    const { state } = entry;
    words[first + seq] = token;
    words[slot + seq] = state.slot;
    words[length + seq] = state.length;
    words[acceptedFirst + seq] = node;
    words.set(state.accepted, acceptedAt + node);
    node += state.accepted.length;
    words.set(state.pages, pages + seq * maxPages);
    for (const index of entry.rows) words[rowAt + row++] = token + index;
    words.set(entry.ids, ids + token);
    words.set(positionsOf(entry), position + token);
    for (let i = 0; i < entry.ids.length; i++) {
      const above = parentOf(entry, i);
      words[parent + token + i] = above < 0 ? -1 : token + above;
    }
    token += entry.ids.length;
  });
  words[first + seqs] = token;
  words[acceptedFirst + seqs] = node;
  if (samples) writeSampling(words, floats, section, entries, histories, { rows, history, biases });
  return words;
}

function writeSampling(
  words: Int32Array,
  floats: Float32Array,
  section: (size: number) => number,
  entries: readonly StepEntry[],
  histories: readonly (readonly (readonly number[])[])[],
  sizes: { rows: number; history: number; biases: number },
): void {
  const options = section(sizes.rows * sampleWords);
  const [historyFirst, history] = [section(sizes.rows + 1), section(sizes.history)];
  const [biasFirst, biasIds, biasValues] = [section(sizes.rows + 1), section(sizes.biases), section(sizes.biases)];
  let [row, past, bias] = [0, 0, 0];
  entries.forEach((entry, seq) => {
    const { sampler } = entry;
    if (!sampler) return;
    const positions = positionsOf(entry);
    entry.rows.forEach((index, i) => {
      sampler.write(words, floats, options + row * sampleWords, (positions[index] as number) + 1);
      words[historyFirst + row] = past;
      const known = histories[seq]?.[i] ?? [];
      words.set(known, history + past);
      past += known.length;
      words[biasFirst + row] = bias;
      words.set(sampler.biasIds, biasIds + bias);
      floats.set(sampler.biasValues, biasValues + bias);
      bias += sampler.biasIds.length;
      row++;
    });
  });
  words[historyFirst + row] = past;
  words[biasFirst + row] = bias;
}
