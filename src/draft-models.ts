import { CrosscurrentError, mismatch } from './errors.js';
import { Scheduler } from './generate/scheduler.js';
import { mostBranches } from './generate/speculation.js';
import { compile } from './graph/compile.js';
import type { Tensor } from './graph/tensor.js';
import { chunkTokens, decodeWindow, type ModelPlan, pageTokens } from './model-plan.js';
import { type NativeWeights, openSession, parseProgram, type SessionOptions } from './native/index.js';
import { linear, sample, topProbabilities } from './ops/index.js';

/** What is left of a model to draft with. */
export interface DraftShape {
  /** Its first layers; all of them when absent. */
  readonly layers?: number | undefined;
  /** Ids that it may say: the first ones of the vocabulary. */
  readonly vocab: number;
}

interface Opened {
  readonly scheduler: Scheduler;
  close(): void;
}

export type StepSettings = Pick<SessionOptions, 'threads' | 'exact' | 'isa' | 'kv'>;

/**
 * Models made of the layers of a loaded one, or the first of them, with its last norm and the first rows of its head: the same weights in memory, states of their own. In place of logits their
 * steps give the `mostBranches` likeliest tokens (`top_probabilities`). Each is made when it is first asked for and kept until the model is disposed.
 */
export class DraftModels {
  readonly #plan: ModelPlan;
  readonly #weights: NativeWeights;
  readonly #options: StepSettings;
  readonly #opening = new Map<string, Promise<Opened>>();
  #bytes = 0;
  #isClosed = false;

  constructor(plan: ModelPlan, weights: NativeWeights, options: StepSettings) {
    this.#plan = plan;
    this.#weights = weights;
    this.#options = options;
  }

  /** Activations, states and caches of those that were made. */
  get bytes(): number {
    return this.#bytes;
  }

  /** @throws CrosscurrentError INVALID_ARGUMENT, OUT_OF_MEMORY, DISPOSED */
  async open({ layers, vocab }: DraftShape): Promise<Scheduler> {
    if (this.#isClosed) throw new CrosscurrentError('DISPOSED', 'the model was disposed');
    const all = this.#plan.info.layers.length;
    if (layers !== undefined && (!Number.isInteger(layers) || layers < 1 || layers >= all))
      throw mismatch('INVALID_ARGUMENT', 'layers', `1..${all - 1} (of a model of ${all} layers)`, String(layers));
    const key = `${layers ?? all} ${vocab}`;
    const opening = this.#opening.get(key) ?? this.#open(layers ?? all, vocab);
    this.#opening.set(key, opening);
    try {
      return (await opening).scheduler;
    } catch (error) {
      this.#opening.delete(key);
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const opening of this.#opening.values()) {
      const opened = await opening.catch(() => undefined);
      await opened?.scheduler.dispose();
      opened?.close();
    }
  }

  async #open(layers: number, vocab: number): Promise<Opened> {
    const { source, program: whole, context, info } = this.#plan;
    const all = info.layers.length;
    const logits = firstLogits(layers < all ? logitsAfter(source, layers, all) : source.logits, vocab);
    const { ids } = sample({ logits });
    const { y: top } = topProbabilities({ logits, top_k: mostBranches });
    const { bounds } = whole;
    const options = { bounds, weightsOf: [source.logits] };
    const { words, states } = await compile(source.graph, { logits: top, ids }, options);
    const program = parseProgram(words);
    try {
      // a drafter holds two sequences, which share most of their pages
      const slots = 2 * this.#plan.slots;
      const isPaged = states.some(({ kind }) => kind === 'kv');
      const pages = isPaged ? this.#plan.pages + slots : 0;
      const sizes = { slots, pages, pageTokens, window: decodeWindow };
      const session = await openSession(program, this.#weights, { ...sizes, ...this.#options });
      const recurrent = states.some(({ kind }) => kind !== 'kv');
      const limits = { ...bounds, slots, pages, pageTokens, context, chunk: chunkTokens, recurrent };
      const { arena, states: stateBytes, kv } = session.bytes;
      const bytes = arena + stateBytes + kv;
      this.#bytes += bytes;
      return {
        scheduler: new Scheduler(session, limits),
        close: () => {
          this.#bytes -= bytes;
          session.close();
          program.close();
        },
      };
    } catch (error) {
      program.close();
      throw error;
    }
  }
}

/** What the model would say if it ended after its first `layers` layers. */
function logitsAfter({ graph, logits }: ModelPlan['source'], layers: number, all: number): Tensor {
  const [from, to] = [graph.labels.get(`hidden.${all}`), graph.labels.get(`hidden.${layers}`)];
  if (!from || !to || from.offset !== 0 || from.rowStride !== to.rowStride)
    throw mismatch(
      'INVALID_ARGUMENT',
      'model',
      'one whose layers are labelled hidden.1, hidden.2, … (decoder())',
      'none',
    );
  return graph.repeat(logits, from, to);
}

/** The logits of the first `vocab` ids alone, where they come from a head without a bias; else all. */
function firstLogits(logits: Tensor, vocab: number): Tensor {
  const { graph } = logits;
  const node = graph.nodes.find(({ results }) => results.y?.storage === logits.storage);
  if (node?.declaration.name !== 'linear' || vocab >= (logits.shape[1] as number)) return logits;
  const { x, weight, bias, residual } = node.operands as Record<string, Tensor | undefined>;
  if (!x || !weight || bias || residual) return logits;
  const { scale = 1, exact = 0 } = node.attrs;
  return linear({ x, weight: graph.firstRows(weight, vocab), scale, exact: exact !== 0 }).y;
}
