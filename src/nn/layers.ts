import type { Tensor } from '../graph/tensor.js';
import type { Activation } from '../ops/act-mul.js';
import {
  actMul,
  add as addOp,
  embedding as embeddingOp,
  gatherRows,
  linear as linearOp,
  rmsNorm,
} from '../ops/index.js';
import type { Weights } from '../weights/weights.js';

/** Where the output of a block is added: `to + scale · output`. */
export interface Residual {
  readonly to: Tensor;
  readonly scale?: number;
}

/** A block of a layer: reads the normed input, adds what it computes to the residual stream. */
export type Block = (x: Tensor, residual: Residual) => Tensor;

/** `x · weightᵀ (+ bias)`; `bias` present in the checkpoint or not. */
export function linear(
  weights: Weights,
  name: string,
  input: number,
  output: number,
  options: { exact?: boolean } = {},
): (x: Tensor, residual?: Residual) => Tensor {
  const weight = weights.matrix(`${name}.weight`, [output, input]);
  const bias = weights.optionalVector(`${name}.bias`, [output]);
  return (x, residual) =>
    linearOp({
      x,
      weight,
      bias,
      residual: residual?.to,
      scale: residual?.scale ?? 1,
      exact: options.exact ?? false,
    }).y;
}

export function norm(weights: Weights, name: string, width: number, eps: number): (x: Tensor) => Tensor {
  const weight = weights.vector(`${name}.weight`, [width]);
  return (x) => rmsNorm({ x, weight, width, eps }).y;
}

export function embed(weights: Weights, name: string, vocab: number, dim: number, scale = 1): (ids: Tensor) => Tensor {
  const weight = weights.matrix(`${name}.weight`, [vocab, dim]);
  return (ids) => embeddingOp({ ids, weight, scale }).y;
}

export const add = (a: Tensor, b: Tensor, scale = 1): Tensor => addOp({ a, b, scale }).y;

export interface MlpConfig {
  readonly dim: number;
  readonly ff: number;
  readonly activation: Activation;
}

/** `down(act(up(x)))`, added to the residual. */
export function mlp(weights: Weights, { dim, ff, activation }: MlpConfig): Block {
  const up = linear(weights, 'up_proj', dim, ff);
  const down = linear(weights, 'down_proj', ff, dim);
  return (x, residual) => down(actMul({ gate: up(x), activation }).y, residual);
}

/**
 * `down(act(gate(x)) · up(x))`, added to the residual. The two projections are one product; a checkpoint has them apart, or (`fused`, as
 * Granite's shared MLP) as one `input_linear`, gate first.
 */
export function gatedMlp(weights: Weights, config: MlpConfig & { readonly fused?: boolean }): Block {
  const { dim, ff, activation } = config;
  const fused = (config.fused ?? false) && !weights.has('gate_proj.weight') && !weights.has('up_proj.weight');
  const gateUp = fused
    ? weights.matrix('input_linear.weight', [2 * ff, dim])
    : weights.stack(
        'gate_up_proj.weight',
        [2 * ff, dim],
        [
          { name: 'gate_proj.weight', shape: [ff, dim] },
          { name: 'up_proj.weight', shape: [ff, dim] },
        ],
      );
  const biasPieces = ['gate_proj.bias', 'up_proj.bias'].map((name) => ({ name, shape: [ff] }));
  const bias = weights.has('gate_proj.bias') ? weights.concat('gate_up_proj.bias', biasPieces) : undefined;
  const down = linear(weights, fused ? 'output_linear' : 'down_proj', ff, dim);
  return (x, residual) => {
    const both = linearOp({ x, weight: gateUp, bias, scale: 1, exact: false }).y; // [t, 2·ff]
    const [gate, up] = x.graph.split(both, [ff, ff]) as [Tensor, Tensor];
    return down(actMul({ gate, up, activation }).y, residual);
  };
}

export interface HeadConfig {
  readonly name: string;
  /** Name of the embedding. */
  readonly tiedTo: string;
  /** Whether the head is the embedding; undefined: when the checkpoint has no head of its own. */
  readonly tied: boolean | undefined;
  readonly vocab: number;
  readonly dim: number;
  readonly scale?: number;
}

/** Logits of the rows that the step wants, [rows, vocab]; `normed` is the output of the last norm, [t, dim]. */
export function head(weights: Weights, config: HeadConfig): (normed: Tensor) => Tensor {
  const tied = config.tied ?? !weights.has(`${config.name}.weight`);
  const weight = weights.matrix(`${tied ? config.tiedTo : config.name}.weight`, [config.vocab, config.dim]);
  return (normed) => {
    const wanted = gatherRows({ x: normed, index: normed.graph.input('rows') }).y;
    return linearOp({ x: wanted, weight, scale: config.scale ?? 1, exact: false }).y;
  };
}
