import type { Graph, WeightPart, WeightTransform } from '../graph/graph.js';
import type { DType, StateKind, Tensor } from '../graph/tensor.js';

/** A tensor as a checkpoint holds it; shape outermost axis first. */
export interface StoredTensor {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
}

/** A checkpoint's tensors under the names that model files use (those of its Hugging Face form). */
export interface Checkpoint {
  /** The stored tensor behind a name; undefined when there is none. */
  find(name: string): StoredTensor | undefined;
  /** Name in the file, also where the tensor is missing: what an error should say. */
  storedName(name: string): string;
  /** Whether vectors such as `A_log` are already stored as the recurrence uses them. */
  readonly transformed: boolean;
}

const count = (shape: readonly number[]): number => shape.reduce((product, n) => product * n, 1);
const squeeze = (shape: readonly number[]): string => shape.filter((n) => n !== 1).join();

/** A range of rows of a named tensor, for weights put together from pieces. */
export interface Piece {
  readonly name: string;
  readonly shape: readonly number[];
  readonly rows?: readonly [first: number, end: number];
}

/**
 * A checkpoint seen from a model file: `weights.at('layers', 0).matrix('q_proj.weight', [out, in])`.
 *
 * Nothing is read here. Every name and shape goes into the graph; loading checks all of them and reports every missing or misshapen tensor
 * in one error. Axes of size 1 may differ between the file and the shape asked for.
 */
export class Weights {
  readonly graph: Graph;
  readonly #checkpoint: Checkpoint;
  readonly #prefix: string;

  constructor(graph: Graph, checkpoint: Checkpoint, prefix = '') {
    this.graph = graph;
    this.#checkpoint = checkpoint;
    this.#prefix = prefix;
  }

  at(...path: (string | number)[]): Weights {
    return new Weights(this.graph, this.#checkpoint, `${this.#prefix}${path.join('.')}.`);
  }

  has(name: string): boolean {
    return this.#checkpoint.find(this.#prefix + name) !== undefined;
  }

  /** The first of the names that the checkpoint has; the first of all where it has none. */
  either(...names: [string, ...string[]]): string {
    return names.find((name) => this.has(name)) ?? names[0];
  }

  /** A matrix in its stored precision, [out, in], or [experts, out, in]. */
  matrix(name: string, shape: readonly number[]): Tensor {
    return this.stack(name, shape, [{ name, shape }]);
  }

  /** A matrix put together from pieces, stacked along the rows. */
  stack(label: string, shape: readonly number[], pieces: readonly Piece[]): Tensor {
    const parts = pieces.map((piece) => this.#part(piece));
    return this.graph.weight({ name: this.#prefix + label, form: 'matrix', shape, parts, transform: 'none' });
  }

  /** Small weights as f32: norms, biases, convolutions, decays. */
  vector(
    name: string,
    shape: readonly number[],
    options: {
      /** Load `-exp(x)`. */ negExp?: boolean /** Accept other axes of as many elements. */;
      anyShape?: boolean;
    } = {},
  ): Tensor {
    const transform: WeightTransform = options.negExp && !this.#checkpoint.transformed ? 'neg_exp' : 'none';
    const stored = options.anyShape ? this.#checkpoint.find(this.#prefix + name) : undefined;
    const part = this.#part({ name, shape: stored && count(stored.shape) === count(shape) ? stored.shape : shape });
    return this.graph.weight({ name: this.#prefix + name, form: 'f32', shape, parts: [part], transform });
  }

  /** A vector that not every checkpoint of the architecture has. */
  optionalVector(name: string, shape: readonly number[]): Tensor | undefined {
    return this.has(name) ? this.vector(name, shape) : undefined;
  }

  /** Small weights side by side as one f32 vector: the biases of stacked projections. */
  concat(label: string, pieces: readonly Piece[]): Tensor {
    const parts = pieces.map((piece) => this.#part(piece));
    const length = pieces.reduce((sum, { shape }) => sum + count(shape), 0);
    return this.graph.weight({ name: this.#prefix + label, form: 'f32', shape: [length], parts, transform: 'none' });
  }

  /** A recurrent state or cache, named after this place in the model. */
  state(kind: StateKind, elements: number, pendingElements: number): Tensor {
    return this.graph.state({ name: `${this.#prefix}${kind}`, kind, elements, pendingElements });
  }

  #part({ name, shape, rows }: Piece): WeightPart {
    const full = this.#prefix + name;
    const stored = this.#checkpoint.find(full);
    const actual = stored && squeeze(stored.shape) === squeeze(shape) ? stored.shape : shape;
    const tensor = stored?.name ?? this.#checkpoint.storedName(full);
    return rows ? { tensor, shape: actual, rows } : { tensor, shape: actual };
  }
}
