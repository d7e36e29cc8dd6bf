import { CrosscurrentError } from '../errors.js';
import { Sampler } from '../generate/sampling.js';
import type {
  Branch,
  BranchRequest,
  Draft,
  Drafter,
  DraftRequest,
  SpeculationTarget,
} from '../generate/speculation.js';
import { turn } from '../turn.js';
import { Chain } from './chain.js';
import { type EvaluatingModel, Evaluator } from './evaluator.js';

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

  constructor(model: EvaluatingModel, target: SpeculationTarget) {
    this.#model = model;
    this.#temperature = target.sampling.temperature ?? 0;
    this.#sampler = new Sampler(target.sampling, model.vocab);
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
    const { vocab } = this.#model;
    const evaluation = await this.#working(async () => {
      this.#evaluator ??= await ifFree((signal) => Evaluator.open(this.#model, this.#sampler, { signal }));
      return draft.ids.length < this.#room(ids) ? this.#evaluator?.evaluate(ids, draft, { logits: true }) : undefined;
    });
    if (!evaluation) return [];
    const { chosen, logits } = evaluation;
    const known = nodes.filter((node) => node + 1 < chosen.length);
    const branches: Branch[][] = [];
    for (const node of known) {
      const choice = chosen[node + 1] as number;
      const row = logits.subarray((node + 1) * vocab, (node + 2) * vocab);
      branches.push(choice < 0 ? [] : this.#ranked(row, choice, width)); // below 0: NaN
      await turn(); // a row of a large vocabulary takes a millisecond
    }
    return branches;
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

  /** The model's own choice, then the likeliest of the others. */
  #ranked(logits: Float32Array, choice: number, width: number): Branch[] {
    const scale = 1 / (this.#temperature || 1);
    const top = largest(logits, width);
    const max = logits[top[0] as number] as number;
    let total = 0;
    for (const logit of logits) total += Math.exp((logit - max) * scale);
    const probability = (id: number): number => Math.exp(((logits[id] as number) - max) * scale) / total;
    if (this.#temperature === 0) return top.map((id) => ({ id, probability: probability(id) }));
    const own = probability(choice);
    const others = top.filter((id) => id !== choice).slice(0, width - 1);
    const doubt = sharedNoise * (1 - own);
    const share = own < 1 ? doubt / (1 - own) : 0;
    return [
      { id: choice, probability: 1 - doubt },
      ...others.map((id) => ({ id, probability: share * probability(id) })),
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

/** Indices of the `count` largest values, falling. */
function largest(values: Float32Array, count: number): number[] {
  const top: number[] = [];
  let least = Number.NEGATIVE_INFINITY;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (top.length === count && !(value > least)) continue;
    let at = top.length;
    while (at > 0 && (values[top[at - 1] as number] as number) < value) at--;
    top.splice(at, 0, i);
    if (top.length > count) top.pop();
    least = values[top.at(-1) as number] as number;
  }
  return top;
}
