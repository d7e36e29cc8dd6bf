import { CrosscurrentError, mismatch } from '../errors.js';
import type { OpDeclaration } from '../ops/define.js';
import type { Dim, DType, StateKind, StepInput, Tensor } from './tensor.js';

/** A range of rows of one stored tensor, seen as a matrix [rows, last axis]. */
export interface WeightPart {
  /** Name in the checkpoint. */
  readonly tensor: string;
  /** Shape it must have there. */
  readonly shape: readonly number[];
  /** Rows taken, of the tensor flattened to [rows, last axis]; all when absent. */
  readonly rows?: readonly [first: number, end: number];
}

/** What is done to every element when a vector is loaded. */
export type WeightTransform = 'none' | 'neg_exp';

export interface WeightSpec {
  readonly name: string;
  /** `matrix` weights are packed by the backend in their own precision; `f32` ones become plain f32 arrays. */
  readonly form: 'matrix' | 'f32';
  readonly shape: readonly number[];
  /** Stacked along the rows, in order. */
  readonly parts: readonly WeightPart[];
  readonly transform: WeightTransform;
  /** Values given by the graph itself (rotary frequencies) instead of parts. */
  readonly values?: Float32Array;
}

/** Sizes of a state, in f32 elements. `kv`: per token; `conv` and `scan`: per sequence, and per pending token. */
export interface StateSpec {
  readonly name: string;
  readonly kind: StateKind;
  readonly elements: number;
  readonly pendingElements: number;
}

export interface Node {
  readonly declaration: OpDeclaration;
  readonly operands: Readonly<Record<string, Tensor | undefined>>;
  readonly results: Readonly<Record<string, Tensor>>;
  readonly attrs: Readonly<Record<string, number>>;
}

/** A model under construction: nodes in the order of the calls that made them, and the weights and states they use. */
export class Graph {
  readonly nodes: Node[] = [];
  readonly weights: WeightSpec[] = [];
  readonly states: StateSpec[] = [];
  readonly labels: Map<string, Tensor> = new Map();
  #scratchCount = 0;
  #nextId = 0;
  readonly #inputs: Map<StepInput, Tensor> = new Map();
  readonly #weightTensors: Map<string, Tensor> = new Map();

  get scratchCount(): number {
    return this.#scratchCount;
  }

  input(name: StepInput): Tensor {
    const existing = this.#inputs.get(name);
    if (existing) return existing;
    const shape = [{ symbol: name === 'rows' ? 'rows' : 't', times: 1 } as const];
    const tensor = this.#tensor(shape, 'i32', { role: 'input', name });
    this.#inputs.set(name, tensor);
    return tensor;
  }

  /** The same name gives the same weight (a tied head). */
  weight(spec: WeightSpec): Tensor {
    const existing = this.#weightTensors.get(spec.name);
    if (existing) return existing;
    const tensor = this.#tensor(spec.shape, 'f32', { role: 'weight', index: this.weights.push(spec) - 1 });
    this.#weightTensors.set(spec.name, tensor);
    return tensor;
  }

  constant(name: string, values: Float32Array): Tensor {
    return this.weight({ name, form: 'f32', shape: [values.length], parts: [], transform: 'none', values });
  }

  state(spec: StateSpec): Tensor {
    return this.#tensor([], 'f32', { role: 'state', index: this.states.push(spec) - 1, kind: spec.kind });
  }

  scratch(shape: readonly Dim[], dtype: DType): Tensor {
    return this.#tensor(shape, dtype, { role: 'scratch', index: this.#scratchCount++ });
  }

  /** Columns `[start, start + count)` of the last axis, without a copy. */
  slice(x: Tensor, start: number, count: number): Tensor {
    const width = x.shape.at(-1);
    if (typeof width !== 'number' || x.shape.length !== 2)
      throw mismatch('INVALID_ARGUMENT', 'slice', 'a tensor [rows, fixed width]', x.shape.length);
    if (!(start >= 0 && count > 0 && start + count <= width))
      throw mismatch('INVALID_ARGUMENT', 'slice', `a range within ${width} columns`, `[${start}, ${start + count})`);
    return { ...x, id: this.#nextId++, shape: [x.shape[0] as Dim, count], offset: x.offset + start };
  }

  /** The first `count` rows of a matrix weight, without a copy. */
  firstRows(weight: Tensor, count: number): Tensor {
    const [rows, inner] = weight.shape;
    const isMatrix = weight.storage.role === 'weight' && this.weights[weight.storage.index]?.form === 'matrix';
    if (!isMatrix || weight.shape.length !== 2 || typeof rows !== 'number')
      throw mismatch('INVALID_ARGUMENT', 'firstRows', 'a matrix weight', weight.storage.role);
    if (!(Number.isInteger(count) && count >= 1 && count <= rows))
      throw mismatch('INVALID_ARGUMENT', 'firstRows', `1..${rows} rows`, String(count));
    return { ...weight, id: this.#nextId++, shape: [count, inner as Dim] };
  }

  /** Cuts `x` into neighbouring column ranges. */
  split(x: Tensor, widths: readonly number[]): Tensor[] {
    let start = 0;
    return widths.map((width) => {
      const part = this.slice(x, start, width);
      start += width;
      return part;
    });
  }

  /** Names a tensor, for `program.print()` and `session.trace()`. */
  label(name: string, tensor: Tensor): Tensor {
    if (this.labels.has(name)) throw new CrosscurrentError('INVALID_ARGUMENT', `label: ${name} is used twice`);
    this.labels.set(name, tensor);
    return tensor;
  }

  /**
   * Does again what was computed from `from` on, with `to` in its place: what then stands for `result`.
   *
   * @throws CrosscurrentError INVALID_ARGUMENT where a state, which only one op may own, is in between
   */
  repeat(result: Tensor, from: Tensor, to: Tensor): Tensor {
    const places = new Map([[from.storage, to]]);
    const placeOf = (tensor: Tensor): Tensor => {
      const place = places.get(tensor.storage);
      if (!place) return tensor;
      return { ...tensor, id: this.#nextId++, storage: place.storage, offset: place.offset + tensor.offset };
    };
    for (const { declaration, operands, results, attrs } of [...this.nodes]) {
      const used = Object.entries(operands);
      if (!used.some(([, tensor]) => tensor && places.has(tensor.storage))) continue;
      if (used.some(([, tensor]) => tensor?.storage.role === 'state'))
        throw new CrosscurrentError('INVALID_ARGUMENT', `${declaration.name}: its state cannot be had twice`);
      const made = Object.entries(results).map(([key, tensor]) => {
        const copy = this.scratch(tensor.shape, tensor.dtype);
        places.set(tensor.storage, copy);
        return [key, copy];
      });
      const replaced = used.map(([key, tensor]) => [key, tensor && placeOf(tensor)]);
      this.add({ declaration, operands: Object.fromEntries(replaced), results: Object.fromEntries(made), attrs });
    }
    return placeOf(result);
  }

  add(node: Node): void {
    for (const [key, tensor] of Object.entries(node.operands))
      if (tensor && tensor.graph !== this)
        throw new CrosscurrentError('INVALID_ARGUMENT', `${node.declaration.name}: ${key} belongs to another graph`);
    this.nodes.push(node);
  }

  #tensor(shape: readonly Dim[], dtype: DType, storage: Tensor['storage']): Tensor {
    const rowStride = shape.slice(1).reduce<number>((product, dim) => product * (dim as number), 1);
    return { graph: this, id: this.#nextId++, shape, dtype, storage, rowStride, offset: 0 };
  }
}
