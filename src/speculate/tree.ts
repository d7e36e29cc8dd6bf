import { mismatch } from '../errors.js';
import type { Branch, Draft, Drafter, DraftRequest, Speculation } from '../generate/speculation.js';
import { mostGuesses } from './evaluator.js';

export interface TreeOptions {
  /** Most guesses that follow one token, and tokens of a level that are followed further. Default: 3. */
  width?: number;
  /** Most guesses in a row. Default: 4. */
  depth?: number;
}

const root = -1;

/** A guess with the probability that it and all before it are right. */
interface Candidate {
  readonly id: number;
  readonly parent: number;
  readonly probability: number;
}

/**
 * Drafts a tree instead of a chain: several guesses where the drafter is in doubt, so that a wrong first guess need not end the draft. Level by level the likeliest paths are followed further; the draft is the
 * likeliest nodes of all.
 *
 * `drafter` must be one that ranks its guesses (`branches()`): `draftModel`, `selfDraft`, `promptLookup`, or one of yours.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT; when the generation starts also for a drafter that has no `branches()`.
 * @see Miao et al. 2024 (SpecInfer), arXiv:2305.09781; Li et al. 2024 (EAGLE-2), arXiv:2406.16858
 */
export function tree(drafter: Speculation, options: TreeOptions = {}): Speculation {
  const { width = 3, depth = 4 } = options;
  for (const [name, value] of Object.entries({ width, depth }))
    if (!Number.isInteger(value) || value < 1 || value > mostGuesses)
      throw mismatch('INVALID_ARGUMENT', name, `an integer, 1..${mostGuesses}`, String(value));
  if (typeof drafter !== 'function')
    throw mismatch('INVALID_ARGUMENT', 'tree: drafter', 'a function such as draftModel(model)', typeof drafter);
  return async (target) => {
    const inner = await drafter(target);
    if (typeof inner?.branches === 'function') return new TreeDrafter(inner, width, depth);
    await inner?.dispose?.();
    throw mismatch('INVALID_ARGUMENT', 'tree: drafter', 'one that has branches()', 'one that only proposes');
  };
}

class TreeDrafter implements Drafter {
  readonly length?: number;
  readonly #inner: Drafter;
  readonly #width: number;
  readonly #depth: number;

  constructor(inner: Drafter, width: number, depth: number) {
    this.#inner = inner;
    this.#width = width;
    this.#depth = depth;
    if (inner.length !== undefined) this.length = inner.length;
  }

  async propose({ ids, limit }: DraftRequest): Promise<Draft> {
    const most = Math.min(limit, mostGuesses);
    const candidates: Candidate[] = [];
    const grown: number[] = [];
    let frontier = [root];
    for (let level = 0; level < this.#depth; level++) {
      const draft = draftOf(candidates, grown);
      const nodes = frontier.map((candidate) => grown.indexOf(candidate));
      const lists = (await this.#inner.branches?.({ ids, draft, nodes, width: this.#width })) ?? [];
      const first = candidates.length;
      for (const [i, branches] of lists.entries()) this.#add(candidates, frontier[i] as number, branches);
      // what follows a node is no likelier than the node: it is not wanted where the node itself is not
      const wanted = new Set(likeliest(candidates, most));
      frontier = likeliest(candidates, this.#width, first).filter((candidate) => wanted.has(candidate));
      if (frontier.length === 0 || grown.length + frontier.length > mostGuesses) break;
      grown.push(...frontier);
    }
    return draftOf(candidates, likeliest(candidates, most));
  }

  #add(candidates: Candidate[], parent: number, branches: readonly Branch[]): void {
    const above = candidates[parent]?.probability ?? 1;
    for (const { id, probability } of branches.slice(0, this.#width)) {
      if (!(probability >= 0 && probability <= 1))
        throw mismatch('DRAFTER_ERROR', 'branches: probability', '0..1', String(probability));
      candidates.push({ id, parent, probability: above * probability });
    }
  }

  observe(...[outcome]: Parameters<NonNullable<Drafter['observe']>>): void {
    this.#inner.observe?.(outcome);
  }

  async dispose(): Promise<void> {
    await this.#inner.dispose?.();
  }
}

/** Indices of the `count` likeliest candidates from `first` on, rising; of equals the earlier: so parents come before what follows them. */
function likeliest(candidates: readonly Candidate[], count: number, first = 0): number[] {
  const order = candidates.map((_, i) => i).slice(first);
  const probability = (i: number): number => (candidates[i] as Candidate).probability;
  order.sort((a, b) => probability(b) - probability(a) || a - b);
  return order.slice(0, count).sort((a, b) => a - b);
}

function draftOf(candidates: readonly Candidate[], chosen: readonly number[]): Draft {
  const numbers = new Map(chosen.map((candidate, node) => [candidate, node]));
  const picked = chosen.map((i) => candidates[i] as Candidate);
  return { ids: picked.map(({ id }) => id), parents: picked.map(({ parent }) => numbers.get(parent) ?? -1) };
}
