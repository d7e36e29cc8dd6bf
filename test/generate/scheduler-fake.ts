// A step runner without a model: what it "computes" for a token is a hash of everything that the token may depend on, and of the class of step that ran each token.
import { setImmediate as turn } from 'node:timers/promises';
import type { StepRunner } from '../../src/generate/task.js';
import type { Checkpoint } from '../../src/state/checkpoint.js';

/** Not `expect`, which takes longer than all the rest of a step. */
function check(isTrue: boolean, expected: string): void {
  if (!isTrue) throw new Error(`fake runner: expected ${expected}`);
}

export const fakeVocab = 97;

const mix = (a: number, b: number): number => {
  let h = Math.imul(a ^ b, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
  return (h ^ (h >>> 13)) >>> 0;
};

/** What a token leaves behind: in its row of the cache, and in the recurrent state. Runs of the two classes differ in it, as those of a backend may. */
const trace = (id: number, position: number, isDecoded: boolean): number =>
  mix(mix(id + 1, position), isDecoded ? 77 : 11);

const chosen = (rows: readonly number[], state: number, seed: number): number =>
  mix(mix(rows.reduce(mix, 5), state), seed) % fakeVocab;

/** A token and the class that it is run in. */
export interface Known {
  readonly id: number;
  readonly isDecoded: boolean;
}

/** What a sequence says next, straight from the definition. */
export function continued(tokens: readonly Known[], count: number, seed: number, kinds: FakeKinds): number[] {
  const out: number[] = [];
  let [rows, state] = [5, 3];
  const add = ({ id, isDecoded }: Known, position: number): void => {
    const left = trace(id, position, isDecoded);
    if (kinds.paged) rows = mix(rows, left);
    if (kinds.recurrent) state = mix(state, left);
  };
  tokens.forEach(add);
  while (out.length < count) {
    const id = mix(mix(rows, kinds.recurrent ? state : 0), seed) % fakeVocab;
    add({ id, isDecoded: true }, tokens.length + out.length);
    out.push(id);
  }
  return out;
}

export interface FakeKinds {
  readonly paged: boolean;
  readonly recurrent: boolean;
}

interface Slot {
  state: number;
  /** Traces and parents of the last decode step's nodes; undefined before the first step. */
  pending: { traces: number[] } | undefined;
}

export class FakeRunner implements StepRunner {
  steps = 0;
  prefillTokens = 0;
  /** Checkpoints that somebody holds. */
  checkpoints = 0;
  readonly kinds: FakeKinds;
  readonly #pageTokens: number;
  readonly #pages: number[][];
  readonly #slots: Slot[];
  readonly #restoring = new Set<number>();

  constructor(kinds: FakeKinds, sizes: { pages: number; pageTokens: number; slots: number }) {
    this.kinds = kinds;
    this.#pageTokens = sizes.pageTokens;
    this.#pages = Array.from({ length: sizes.pages }, () => []);
    this.#slots = Array.from({ length: sizes.slots }, () => ({ state: 3, pending: undefined }));
  }

  async step(words: Int32Array, want: { ids: boolean; logits: boolean }) {
    this.steps++;
    const ids: number[] = [];
    const logits: number[] = [];
    const step = read(words);
    check(new Set(step.seqs.map(({ slot }) => slot)).size === step.seqs.length, 'each slot once');
    for (const seq of step.seqs) {
      const nodes = this.#advance(step.isDecode, seq);
      for (const [i, node] of nodes.entries()) {
        const row = step.rows.indexOf(seq.first + i);
        if (row < 0) continue;
        const id = chosen(node.rows, node.state, step.seeds[row] ?? 0);
        ids[row] = id;
        for (let v = 0; v < fakeVocab; v++) logits[row * fakeVocab + v] = v === id ? 1 : 0;
      }
      if (!step.isDecode) this.prefillTokens += nodes.length;
    }
    await turn();
    return {
      ...(want.ids ? { ids: Int32Array.from(ids) } : {}),
      ...(want.logits ? { logits: Float32Array.from(logits) } : {}),
    };
  }

  /** Commits the accepted nodes, then runs the new ones; what each of them sees. */
  #advance(isDecode: boolean, seq: FakeSequence): { rows: number[]; state: number }[] {
    const slot = this.#slots[seq.slot] as Slot;
    check(!this.#restoring.has(seq.slot), 'no step on a slot that is being restored');
    if (seq.length === 0 && seq.accepted.length === 0) {
      slot.state = 3;
      slot.pending = { traces: [] };
    }
    const pending = slot.pending?.traces;
    check(pending !== undefined, `a state in slot ${seq.slot}`);
    check((seq.accepted.at(-1) ?? -1) < pending!.length, 'accepted nodes that are there');
    for (const [i, node] of seq.accepted.entries()) {
      slot.state = mix(slot.state, pending![node] as number);
      if (this.kinds.paged) this.#setRow(seq, seq.length + i, this.#row(seq, seq.length + node));
    }
    const base = seq.length + seq.accepted.length;
    const before = this.kinds.paged ? Array.from({ length: base }, (_, i) => this.#row(seq, i)) : [];
    const nodes: { path: number[] }[] = [];
    const traces: number[] = [];
    seq.ids.forEach((id, i) => {
      const parent = seq.parents[i] as number;
      const above = parent < 0 ? [] : (nodes[parent]?.path as number[]);
      check(seq.positions[i] === base + above.length, 'the position after the parent');
      traces.push(trace(id, base + above.length, isDecode));
      nodes.push({ path: [...above, traces[i] as number] });
      if (this.kinds.paged) this.#setRow(seq, base + i, traces[i] as number);
    });
    const seen = nodes.map(({ path }) => ({
      rows: this.kinds.paged ? [...before, ...path] : [],
      state: this.kinds.recurrent ? path.reduce(mix, slot.state) : 0,
    }));
    if (!isDecode) slot.state = traces.reduce(mix, slot.state);
    slot.pending = { traces: isDecode ? traces : [] };
    return seen;
  }

  #row(seq: FakeSequence, position: number): number {
    const value = this.#pages[this.#page(seq, position)]?.[position % this.#pageTokens];
    check(value !== undefined, `row ${position} written`);
    return value as number;
  }

  #setRow(seq: FakeSequence, position: number, value: number): void {
    (this.#pages[this.#page(seq, position)] as number[])[position % this.#pageTokens] = value;
  }

  #page(seq: FakeSequence, position: number): number {
    const page = seq.pages[Math.floor(position / this.#pageTokens)];
    check(page !== undefined, `a page for row ${position}`);
    return page as number;
  }

  async copy(slotPairs: Int32Array, pagePairs: Int32Array): Promise<void> {
    for (let i = 0; i < slotPairs.length; i += 2)
      this.#slots[slotPairs[i + 1] as number] = structuredClone(this.#slots[slotPairs[i] as number] as Slot);
    for (let i = 0; i < pagePairs.length; i += 2)
      this.#pages[pagePairs[i + 1] as number] = [...(this.#pages[pagePairs[i] as number] as number[])];
    await turn();
  }

  async save(slot: number, pages: Int32Array): Promise<Uint8Array> {
    const state = this.#slots[slot] as Slot;
    check(state.pending !== undefined, 'a state to save');
    // as many bytes for every state, as in a session
    const text = JSON.stringify({ state, pages: [...pages].map((page) => this.#pages[page]) }).padEnd(200);
    await turn();
    return new TextEncoder().encode(text);
  }

  async checkpoint(slot: number): Promise<Checkpoint> {
    const saved = await this.save(slot, new Int32Array(0));
    this.checkpoints++;
    let holders = 1;
    const checkHeld = () => check(holders > 0, 'a checkpoint that somebody holds');
    const checkpoint = {
      bytes: saved.length,
      saved: () => {
        checkHeld();
        return saved;
      },
      hold: () => {
        checkHeld();
        holders++;
      },
      release: () => {
        checkHeld();
        if (--holders === 0) this.checkpoints--;
      },
    };
    return checkpoint;
  }

  async resume(checkpoint: Checkpoint, slot: number): Promise<void> {
    return this.restore((checkpoint as Checkpoint & { saved(): Uint8Array }).saved(), slot, new Int32Array(0));
  }

  async restore(bytes: Uint8Array, slot: number, pages: Int32Array): Promise<void> {
    this.#restoring.add(slot);
    await turn(); // the bytes are handed over before the call takes its place in the queue
    const saved = JSON.parse(new TextDecoder().decode(bytes)) as { state: Slot; pages: number[][] };
    check(saved.pages.length === pages.length, 'as many pages as were saved');
    this.#slots[slot] = saved.state;
    saved.pages.forEach((rows, i) => {
      this.#pages[pages[i] as number] = rows;
    });
    this.#restoring.delete(slot);
  }
}

interface FakeSequence {
  readonly slot: number;
  readonly length: number;
  readonly first: number;
  readonly accepted: number[];
  readonly pages: number[];
  readonly ids: number[];
  readonly positions: number[];
  readonly parents: number[];
}

/** The words of a step (docs/architecture.md). */
function read(words: Int32Array) {
  const [kind, t, count, rowCount, maxPages, , , samples] = words as unknown as number[] as [
    number,
    number,
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  let at = 8;
  const take = (size: number): number[] => {
    at += size;
    return [...words.subarray(at - size, at)];
  };
  const [ids, positions, parents] = [take(t), take(t), take(t)];
  const [first, slot, length] = [take(count + 1), take(count), take(count)];
  const acceptedFirst = take(count + 1);
  const accepted = take(acceptedFirst[count] as number);
  const pages = take(count * maxPages);
  const rows = take(rowCount);
  const seeds = samples === 0 ? [] : rows.map((_, i) => words[at + i * 10 + 7] as number);
  const seqs = slot.map((number, i): FakeSequence => {
    const [from, to] = [first[i] as number, first[i + 1] as number];
    return {
      slot: number,
      length: length[i] as number,
      first: from,
      accepted: accepted.slice(acceptedFirst[i], acceptedFirst[i + 1]),
      pages: pages.slice(i * maxPages, (i + 1) * maxPages),
      ids: ids.slice(from, to),
      positions: positions.slice(from, to),
      parents: parents.slice(from, to).map((parent) => (parent < 0 ? -1 : parent - from)),
    };
  });
  return { isDecode: kind === 1, seqs, rows, seeds };
}
