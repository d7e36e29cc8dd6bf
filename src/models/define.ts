import { Graph } from '../graph/graph.js';
import type { Tensor } from '../graph/tensor.js';
import { turn } from '../turn.js';
import { Config, type RawConfig } from '../weights/config.js';
import { type Checkpoint, Weights } from '../weights/weights.js';

/** What the runtime must know of any model, whatever its architecture. */
export interface ModelShape {
  readonly vocab: number;
  readonly dim: number;
  /** Kind of each layer, for `inspect`: `attention`, `mamba2 + moe`, … */
  readonly layers: readonly string[];
  /** Positions it was trained for. */
  readonly maxPositions: number;
}

export interface BuiltModel {
  readonly graph: Graph;
  readonly logits: Tensor;
  readonly shape: ModelShape;
}

export interface ModelDefinition {
  /** `model_type` of its config. */
  readonly type: string;
  build(raw: RawConfig, checkpoint: Checkpoint): Promise<BuiltModel>;
  /** Names and shapes of the tensors that a checkpoint must have. */
  tensors(raw: RawConfig): Promise<{ readonly name: string; readonly shape: readonly number[] }[]>;
}

const emptyCheckpoint: Checkpoint = { find: () => undefined, storedName: (name) => name, transformed: false };

type Forward = (ids: Tensor) => Tensor | Promise<Tensor>;

/**
 * A model architecture: `read` turns the config into what the model needs, `assemble` declares the weights and returns the forward pass
 * from token ids [t] to logits [rows, vocab].
 */
export function defineModel<C extends ModelShape>(
  type: string,
  read: (config: Config) => C,
  assemble: (config: C, weights: Weights) => Forward,
): ModelDefinition {
  const build = async (raw: RawConfig, checkpoint: Checkpoint): Promise<BuiltModel> => {
    const config = read(new Config(raw));
    await turn();
    const graph = new Graph();
    const forward = assemble(config, new Weights(graph, checkpoint));
    await turn();
    const logits = graph.label('logits', await forward(graph.input('ids')));
    const { vocab, dim, layers, maxPositions } = config;
    return { graph, logits, shape: { vocab, dim, layers, maxPositions } };
  };
  return {
    type,
    build,
    async tensors(raw) {
      const { graph } = await build(raw, emptyCheckpoint);
      const parts = graph.weights.flatMap((weight) => weight.parts);
      const shapes = new Map(parts.map(({ tensor, shape }) => [tensor, shape]));
      return [...shapes].map(([name, shape]) => ({ name, shape }));
    },
  };
}
