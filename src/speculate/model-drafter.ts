import { CrosscurrentError } from '../errors.js';
import { Sampler } from '../generate/sampling.js';
import {
  type Branch,
  type BranchRequest,
  type Draft,
  type Drafter,
  type DraftRequest,
  mostBranches,
  type SpeculationHost,
  type SpeculationTarget,
} from '../generate/speculation.js';
import { Chain } from './chain.js';
import { type EvaluatingModel, Evaluator } from './evaluator.js';

/** Ids that are guessed unless told otherwise. */
const draftVocab = 16_384;

/** What a draft model's own choice lacks to certainty is halved where both models draw with the same noise. */
const sharedNoise = 0.5;

/** Drafts with a model that samples with the target's options and noise: where the two agree on the distribution, they draw the same token. */
export class ModelDrafter implements Drafter {
  readonly #model: EvaluatingModel;
  readonly #temperature: number;
  readonly #sampler: Sampler;
  #chain: Chain | undefined;
  #evaluator: Evaluator | undefined;
  #work: Promise<unknown> = Promise.resolve();
  #disposed = false;

  private constructor(model: EvaluatingModel, target: SpeculationTarget, choices: number) {
    this.#model = model;
    this.#temperature = target.sampling.temperature ?? 0;
    this.#sampler = new Sampler(target.sampling, model.vocab, choices);
  }

  /** Drafts with the weights of `host`: with its first layers, of the first ids. */
  static async open(
    host: SpeculationHost,
    { layers, vocab = draftVocab }: { layers?: number; vocab?: number | undefined },
    target: SpeculationTarget,
  ): Promise<ModelDrafter> {
    const choices = Math.min(vocab, host.vocab);
    const scheduler = await host.drafts({ layers, vocab: choices });
    return new ModelDrafter({ scheduler, vocab: host.vocab }, target, choices);
  }

  async propose({ ids, limit }: DraftRequest): Promise<Draft> {
    const count = Math.min(limit, this.#room(ids));
    const guesses = await this.#working(async () => {
      this.#chain ??= await ifFree((signal) => Chain.open(this.#model.scheduler, this.#sampler, signal));
      return count > 0 ? this.#chain?.guess(ids, count) : [];
    });
    return { ids: guesses ?? [] };
  }

  async branches({ ids, draft, nodes, width }: BranchRequest): Promise<Branch[][]> {
    const evaluation = await this.#working(async () => {
      this.#evaluator ??= await ifFree((signal) => Evaluator.open(this.#model, this.#sampler, { signal }));
      return draft.ids.length < this.#room(ids) ? this.#evaluator?.evaluate(ids, draft, { logits: true }) : undefined;
    });
    if (!evaluation) return [];
    const { chosen, logits } = evaluation;
    const known = nodes.filter((node) => node + 1 < chosen.length);
    const rowLength = 2 * mostBranches;
    return known.map((node) => {
      const choice = chosen[node + 1] as number;
      const row = logits.subarray((node + 1) * rowLength, (node + 2) * rowLength);
      return choice < 0 ? [] : this.#ranked(row, choice, width); // below 0: NaN
    });
  }

  async dispose(): Promise<void> {
    this.#disposed = true;
    await this.#work.catch(() => {});
    this.#chain?.close();
    this.#evaluator?.close();
  }

  #room(ids: readonly number[]): number {
    return this.#model.scheduler.limits.context - ids.length;
  }

  /** What `work` gives; nothing while the model has no room for it, and nothing to who still asks after `dispose`. */
  async #working<T>(work: () => Promise<T>): Promise<T | undefined> {
    if (this.#disposed) return undefined;
    const done = work().catch((error: unknown) => {
      if (error instanceof CrosscurrentError && busy.has(error.code)) return undefined;
      throw error;
    });
    this.#work = done;
    return done;
  }

  /** The model's own choice, then the likeliest of the others; `row` holds pairs of an id and its probability. */
  #ranked(row: Float32Array, choice: number, width: number): Branch[] {
    const top: Branch[] = [];
    for (let i = 0; i < row.length && (row[i] as number) >= 0; i += 2)
      top.push({ id: row[i] as number, probability: Math.min(row[i + 1] as number, 1) });
    if (this.#temperature === 0) return top.slice(0, width);
    const own = top.find(({ id }) => id === choice)?.probability ?? 0;
    const others = top.filter(({ id }) => id !== choice).slice(0, width - 1);
    const doubt = sharedNoise * (1 - own);
    const share = own < 1 ? doubt / (1 - own) : 0;
    return [
      { id: choice, probability: 1 - doubt },
      ...others.map(({ id, probability }) => ({ id, probability: share * probability })),
    ];
  }
}

/** What `open` gives if it needs not wait: those it would wait for may be waiting for this generation. */
async function ifFree<T>(open: (signal: AbortSignal) => Promise<T>): Promise<T | undefined> {
  const hasWaited = new AbortController();
  const timer = setImmediate(() => hasWaited.abort());
  try {
    return await open(hasWaited.signal);
  } catch (error) {
    if (hasWaited.signal.aborted) return undefined;
    throw error;
  } finally {
    clearImmediate(timer);
  }
}

const busy = new Set(['OUT_OF_MEMORY', 'QUEUE_FULL']);
