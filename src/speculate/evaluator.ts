import type { Sampler } from '../generate/sampling.js';
import type { Scheduler } from '../generate/scheduler.js';
import { type Draft, maxNodes, noDraft, Speculator } from '../generate/speculation.js';
import type { SequenceState } from '../state/sequence-state.js';

/** What a model says after the last token of a text and after each guessed one; of the first guesses only, where a step had no room for all. */
export interface Evaluation {
  /** What it would choose. */
  readonly chosen: readonly number[];
  /** [chosen.length, …], where wanted: what the model's steps give beside, its logits or likeliest tokens. */
  readonly logits: Float32Array;
}

export interface EvaluatingModel {
  readonly scheduler: Scheduler;
  readonly vocab: number;
}

/** Known tokens beyond these are read as a prompt first: as nodes they would cost more. */
const mostKnownNodes = 8;

/**
 * One sequence of a model whose guesses are evaluated together, in one step, as often as wanted: nothing of a step is kept until a longer text shows which of its guesses have come true, and
 * those are then not read again.
 */
export class Evaluator {
  readonly #scheduler: Scheduler;
  readonly #state: SequenceState;
  readonly #sampler: Sampler;
  readonly #vocab: number;
  readonly #priority: number | undefined;
  /** Where the last step began, and its nodes. */
  #base = 0;
  #nodes: Draft = noDraft;

  /** `state` is the caller's to close, and nobody else's to use. */
  constructor(model: EvaluatingModel, state: SequenceState, sampler: Sampler, priority?: number) {
    this.#scheduler = model.scheduler;
    this.#vocab = model.vocab;
    this.#state = state;
    this.#sampler = sampler;
    this.#priority = priority;
  }

  static async open(
    model: EvaluatingModel,
    sampler: Sampler,
    options: { signal?: AbortSignal | undefined; priority?: number | undefined } = {},
  ): Promise<Evaluator> {
    const state = await model.scheduler.open(options.signal, options.priority);
    return new Evaluator(model, state, sampler, options.priority);
  }

  /** `ids` begins with all that was given before; `guesses` follow its last token. */
  async evaluate(
    ids: readonly number[],
    guesses: Draft,
    options: { logits?: boolean; signal?: AbortSignal | undefined } = {},
  ): Promise<Evaluation> {
    const state = this.#state;
    const { signal } = options;
    this.#follow(ids);
    if (ids.length - state.processed > mostKnownNodes) await this.#read(ids, ids.length - 1, signal);
    const live = state.processed;
    this.#extend(ids, live + 1);
    state.decoded.add(live);
    const known = ids.slice(live + 1);
    const above = (parent: number): number => (parent < 0 ? known.length - 1 : known.length + parent);
    const nodes = {
      ids: [...known, ...guesses.ids],
      parents: [
        ...known.map((_, i) => i - 1),
        ...guesses.ids.map((_, i) => above(guesses.parents ? (guesses.parents[i] as number) : i - 1)),
      ],
    };
    const { chosen, logits } = await this.#step(nodes, options.logits ?? false, signal);
    if (chosen.length <= known.length) {
      await this.#read(ids, ids.length - 1, signal);
      return this.evaluate(ids, guesses, options);
    }
    return {
      chosen: chosen.slice(known.length),
      logits: logits.subarray((known.length * logits.length) / chosen.length),
    };
  }

  close(): void {
    this.#scheduler.close(this.#state);
  }

  /** Takes over the guesses of the last step that have come true, all but the last token: what comes after it is to be evaluated again. */
  #follow(ids: readonly number[]): void {
    const state = this.#state;
    const isKept = state.accepted.length > 0 && state.length === this.#base;
    state.truncate(state.length);
    state.accepted = [];
    if (!isKept) return;
    const path: number[] = [];
    const { ids: guesses, parents = [] } = this.#nodes;
    for (let node = 0; state.length + path.length < ids.length - 1; ) {
      path.push(node);
      const next = ids[state.length + path.length] as number;
      node = guesses.findIndex((id, i) => id === next && (parents[i] as number) === node - 1) + 1;
      if (node === 0) break;
    }
    this.#extend(ids, state.length + path.length);
    for (const i of path.keys()) state.decoded.add(state.length + i);
    state.accepted = path;
  }

  #extend(ids: readonly number[], length: number): void {
    for (let i = this.#state.ids.length; i < length; i++) this.#state.ids.push(ids[i] as number);
  }

  async #read(ids: readonly number[], target: number, signal: AbortSignal | undefined): Promise<void> {
    this.#extend(ids, target);
    const task = { state: this.#state, target, capacity: target, ...this.#rank, sharesPrefix: true };
    await this.#scheduler.run(task, signal);
  }

  get #rank(): { priority?: number } {
    return this.#priority === undefined ? {} : { priority: this.#priority };
  }

  /** Runs the last token of the sequence and `nodes` after it. */
  async #step(nodes: Draft, wantsLogits: boolean, signal: AbortSignal | undefined): Promise<Evaluation> {
    const state = this.#state;
    const target = state.ids.length;
    let chosen: readonly number[] = [];
    let logits: Float32Array = new Float32Array(0);
    const speculator = new Speculator(
      {
        length: nodes.ids.length,
        propose: ({ limit }) => ({ ids: nodes.ids.slice(0, limit), parents: (nodes.parents ?? []).slice(0, limit) }),
        observe: (outcome) => {
          chosen = outcome.chosen;
        },
      },
      this.#vocab,
    );
    this.#base = target - 1;
    this.#nodes = nodes;
    await this.#scheduler.run(
      {
        state,
        target,
        capacity: Math.min(target + 1 + nodes.ids.length, this.#scheduler.limits.context),
        ...this.#rank,
        sampler: this.#sampler,
        speculator,
        onToken: () => false,
        ...(wantsLogits
          ? {
              onLogits: (_: number, rows: Float32Array) => {
                logits = rows;
              },
            }
          : {}),
      },
      signal,
    );
    state.truncate(target);
    return { chosen, logits };
  }
}

/** Most guesses of one evaluation. */
export const mostGuesses = maxNodes - 1 - mostKnownNodes;
