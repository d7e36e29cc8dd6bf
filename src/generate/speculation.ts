import type { DraftShape } from '../draft-models.js';
import { CrosscurrentError, mismatch } from '../errors.js';
import type { Tokenizer } from '../text/index.js';
import { DraftLength } from './draft-length.js';
import type { SamplingOptions } from './sampling.js';
import type { Scheduler } from './scheduler.js';

/** Guessed tokens, as a tree: `parents[i]` is the index in `ids` of the token that `ids[i]` follows, -1 for the last token of the sequence. A chain without `parents`. */
export interface Draft {
  readonly ids: readonly number[];
  readonly parents?: readonly number[];
}

export interface DraftRequest {
  /** All tokens of the sequence. */
  readonly ids: readonly number[];
  /** Most tokens to propose. */
  readonly limit: number;
}

/** What became of a draft. */
export interface DraftOutcome {
  readonly draft: Draft;
  /** Indices of the draft's tokens that were right, in order. */
  readonly accepted: readonly number[];
  /** What the model itself chose after the last token and after each token of the draft. */
  readonly chosen: readonly number[];
}

/** A token that may follow a node of a draft. */
export interface Branch {
  readonly id: number;
  /** Of being right, where the node is. */
  readonly probability: number;
}

export interface BranchRequest {
  /** All tokens of the sequence. */
  readonly ids: readonly number[];
  /** Guesses so far. */
  readonly draft: Draft;
  /** Of which nodes the branches are asked for: indices in the draft's `ids`, -1 for the last token of the sequence. */
  readonly nodes: readonly number[];
  /** Most branches of a node. */
  readonly width: number;
}

/** Guesses what a model will say next, for one generation. Wrong guesses cost time, never change the output. */
export interface Drafter {
  /** Tokens to be asked for in every step; as many as pay, by what was measured, when absent. */
  readonly length?: number;
  propose(request: DraftRequest): Draft | Promise<Draft>;
  /** What may follow each of `nodes`, likeliest first, for drafts that are trees; fewer lists where it cannot say more at once. */
  branches?(request: BranchRequest): readonly (readonly Branch[])[] | Promise<readonly (readonly Branch[])[]>;
  observe?(outcome: DraftOutcome): void;
  dispose?(): void | Promise<void>;
}

/** What a drafter may know of the generation it drafts for. */
export interface SpeculationTarget {
  readonly vocab: number;
  readonly context: number;
  /** Sampling of the generation, its seed filled in: a drafter that uses the same noise guesses better. */
  readonly sampling: SamplingOptions & { readonly seed: bigint };
  /** Undefined where the model has none. */
  readonly tokenizer: Tokenizer | undefined;
}

/** @internal What drafters of this package may use beside. */
export interface SpeculationHost {
  readonly vocab: number;
  /** What drafts with the model's weights: choices of the first ids, and the likeliest tokens instead of logits. */
  drafts(shape: DraftShape): Promise<Scheduler>;
}

const targetHosts = new WeakMap<SpeculationTarget, SpeculationHost>();

/** @internal */
export function targetOf(host: SpeculationHost, target: SpeculationTarget): SpeculationTarget {
  targetHosts.set(target, host);
  return target;
}

/** @internal The model that a generation's target stands for. */
export const hostOfTarget = (target: SpeculationTarget): SpeculationHost | undefined => targetHosts.get(target);

/** Makes the drafter of a generation: `promptLookup()`, `draftModel(model)`, or a function of yours. */
export type Speculation = (target: SpeculationTarget) => Drafter | Promise<Drafter>;

export interface SpeculationStats {
  /** Tokens proposed, and those of them that were right. */
  readonly drafted: number;
  readonly accepted: number;
  /** Steps of the model that verified, or just made, tokens. */
  readonly steps: number;
  /** Of cascades: tokens that the large model chose. */
  readonly deferred?: number;
}

export const noDraft: Draft = { ids: [] };

const isPromise = (value: Draft | PromiseLike<Draft>): value is Promise<Draft> =>
  typeof (value as PromiseLike<Draft> | undefined)?.then === 'function';

const thrown = (cause: unknown): CrosscurrentError =>
  new CrosscurrentError(
    'DRAFTER_ERROR',
    `drafter: propose threw (${cause instanceof Error ? cause.message : String(cause)})`,
    { operand: 'drafter', cause },
  );

/** Most branches of a node that a model ranks. */
export const mostBranches = 64;

/** Most nodes of a step, the last token included; what a session's decode window holds. */
export const maxNodes = 64;

/** Runs a drafter for one generation: asks it, checks what it says, and learns how much to ask for. */
export class Speculator {
  readonly #drafter: Drafter;
  readonly #vocab: number;
  readonly #length = new DraftLength();
  #drafted = 0;
  #accepted = 0;
  #steps = 0;

  constructor(drafter: Drafter, vocab: number) {
    if (typeof drafter?.propose !== 'function')
      throw mismatch('DRAFTER_ERROR', 'drafter', 'an object with propose()', typeof drafter);
    const { length } = drafter;
    if (length !== undefined && (!Number.isInteger(length) || length < 0))
      throw mismatch('DRAFTER_ERROR', 'drafter: length', 'an integer, 0 or more', String(length));
    this.#drafter = drafter;
    this.#vocab = vocab;
  }

  get stats(): SpeculationStats {
    return { drafted: this.#drafted, accepted: this.#accepted, steps: this.#steps };
  }

  /** A checked draft of at most `room` tokens, at once where the drafter answers at once; empty when it would not pay. @throws CrosscurrentError DRAFTER_ERROR */
  propose(ids: readonly number[], room: number): Draft | Promise<Draft> {
    const limit = Math.min(this.#drafter.length ?? this.#length.next(), room, maxNodes - 1);
    if (limit <= 0) return noDraft;
    const start = performance.now();
    const checked = (draft: Draft): Draft => {
      this.#check(draft, limit);
      this.#length.drafted(draft.ids.length, performance.now() - start);
      return draft;
    };
    let proposed: Draft | Promise<Draft>;
    try {
      proposed = this.#drafter.propose({ ids, limit });
    } catch (cause) {
      throw thrown(cause);
    }
    if (!isPromise(proposed)) return checked(proposed);
    return Promise.resolve(proposed).then(checked, (cause: unknown) => {
      throw thrown(cause);
    });
  }

  /** Told what a step made of the draft, and how long it took. */
  settle(outcome: DraftOutcome, stepMs: number): void {
    this.#steps++;
    this.#drafted += outcome.draft.ids.length;
    this.#accepted += outcome.accepted.length;
    this.#length.settled(outcome.draft, outcome.accepted.length, stepMs);
    try {
      this.#drafter.observe?.(outcome);
    } catch (cause) {
      throw new CrosscurrentError(
        'DRAFTER_ERROR',
        `drafter: observe threw (${cause instanceof Error ? cause.message : String(cause)})`,
        { operand: 'drafter', cause },
      );
    }
  }

  async dispose(): Promise<void> {
    await this.#drafter.dispose?.();
  }

  #check(draft: Draft, limit: number): void {
    const wrong = (operand: string, expected: string, got: unknown): CrosscurrentError =>
      mismatch('DRAFTER_ERROR', `drafter: ${operand}`, expected, got);
    if (typeof draft !== 'object' || draft === null || !Array.isArray(draft.ids))
      throw wrong('draft', '{ ids: [...] }', draft);
    const { ids, parents } = draft;
    if (ids.length > limit) throw wrong('draft', `at most ${limit} tokens`, ids.length);
    ids.forEach((id, i) => {
      if (!Number.isInteger(id) || id < 0 || id >= this.#vocab)
        throw wrong(`ids[${i}]`, `0..${this.#vocab - 1}`, String(id));
    });
    if (parents === undefined) return;
    if (!Array.isArray(parents) || parents.length !== ids.length)
      throw wrong('parents', `${ids.length} numbers`, parents);
    parents.forEach((parent, i) => {
      if (!Number.isInteger(parent) || parent < -1 || parent >= i)
        throw wrong(`parents[${i}]`, `-1..${i - 1}`, String(parent));
    });
  }
}
