import type { Tensor } from '../graph/tensor.js';
import { actMul, add as addOp, embedding as embeddingOp, gatherRows, linear as linearOp, rmsNorm } from '../ops/index.js';
import type { Activation } from '../ops/act-mul.js';
import type { Weights } from '../weights/weights.js';

/** `x · weightᵀ (+ bias)`; `bias` present in the checkpoint or not. */
export function linear(
  weights: Weights,
  name: string,
  input: number,
  output: number,
  options: { exact?: boolean } = {},
): (x: Tensor, residual?: { to: Tensor; scale?: number }) => Tensor {
  const weight = weights.matrix(`${name}.weight`, [output, input]);
  const bias = weights.optionalVector(`${name}.bias`, [output]);
  return (x, residual) =>
    linearOp({ x, weight, bias, residual: residual?.to, scale: residual?.scale ?? 1, exact: options.exact ?? false }).y;
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

/** `down(act(gate(x)) · up(x))`, added to `residual`. */
export function gatedMlp(
  weights: Weights,
  options: { dim: number; ff: number; activation: Activation },
): (x: Tensor, residual: { to: Tensor; scale?: number }) => Tensor {
  const { dim, ff, activation } = options;
  const gateUp = weights.stack('gate_up_proj.weight', [2 * ff, dim], [
    { name: 'gate_proj.weight', shape: [ff, dim] },
    { name: 'up_proj.weight', shape: [ff, dim] },
  ]);
  const down = linear(weights, 'down_proj', ff, dim);
  return (x, residual) => {
    const both = linearOp({ x, weight: gateUp, scale: 1, exact: false }).y; // [t, 2·ff]
    const [gate, up] = x.graph.split(both, [ff, ff]) as [Tensor, Tensor];
    return down(actMul({ gate, up, activation }).y, residual);
  };
}

/** Logits of the rows that the step wants, [rows, vocab]; `normed` is the output of the last norm, [t, dim]. */
export function head(
  weights: Weights,
  options: { name: string; tiedTo: string; tied: boolean; vocab: number; dim: number; scale?: number },
): (normed: Tensor) => Tensor {
  const tied = options.tied || !weights.has(`${options.name}.weight`);
  const weight = weights.matrix(`${tied ? options.tiedTo : options.name}.weight`, [options.vocab, options.dim]);
  return (normed) => {
    const wanted = gatherRows({ x: normed, index: normed.graph.input('rows') }).y;
    return linearOp({ x: wanted, weight, scale: options.scale ?? 1, exact: false }).y;
  };
}
