import { CrosscurrentError, mismatch } from './errors.js';
import { Scheduler } from './generate/scheduler.js';
import { compile } from './graph/compile.js';
import type { Tensor } from './graph/tensor.js';
import { chunkTokens, decodeWindow, type ModelPlan, pageTokens } from './model-plan.js';
import { type NativeWeights, openSession, parseProgram, type SessionOptions } from './native/index.js';
import { sample } from './ops/index.js';

interface Opened {
  readonly scheduler: Scheduler;
  close(): void;
}

export type StepSettings = Pick<SessionOptions, 'threads' | 'exact' | 'isa' | 'kv'>;

/**
 * Models made of the first layers of a loaded one, with its last norm and head: the same weights in memory, states of their own. Each is made when it is first asked for and kept until
 * the model is disposed.
 */
export class FirstLayers {
  readonly #plan: ModelPlan;
  readonly #weights: NativeWeights;
  readonly #options: StepSettings;
  readonly #opened = new Map<number, Promise<Opened>>();
  #isClosed = false;

  constructor(plan: ModelPlan, weights: NativeWeights, options: StepSettings) {
    this.#plan = plan;
    this.#weights = weights;
    this.#options = options;
  }

  /** @throws CrosscurrentError INVALID_ARGUMENT, OUT_OF_MEMORY, DISPOSED */
  async open(layers: number): Promise<Scheduler> {
    if (this.#isClosed) throw new CrosscurrentError('DISPOSED', 'the model was disposed');
    const most = this.#plan.info.layers.length - 1;
    if (!Number.isInteger(layers) || layers < 1 || layers > most)
      throw mismatch('INVALID_ARGUMENT', 'layers', `1..${most} (of a model of ${most + 1} layers)`, String(layers));
    const opening = this.#opened.get(layers) ?? this.#open(layers);
    this.#opened.set(layers, opening);
    try {
      return (await opening).scheduler;
    } catch (error) {
      this.#opened.delete(layers);
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const opening of this.#opened.values()) {
      const opened = await opening.catch(() => undefined);
      await opened?.scheduler.dispose();
      opened?.close();
    }
  }

  async #open(layers: number): Promise<Opened> {
    const { source, program: whole, context } = this.#plan;
    const logits = logitsAfter(source, layers, this.#plan.info.layers.length);
    const { ids } = sample({ logits });
    const { bounds } = whole;
    const { words, states } = await compile(source.graph, { logits, ids }, { bounds, weightsOf: [source.logits] });
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
      return {
        scheduler: new Scheduler(session, limits),
        close() {
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
