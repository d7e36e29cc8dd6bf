import type { Graph } from '../graph/graph.js';
import type { Tensor } from '../graph/tensor.js';
import { rope as ropeOp } from '../ops/index.js';
import type { RopeConfig } from '../weights/config.js';

/** What is needed at least, and whatever differs from plain rotation. */
export type RopeOptions = Pick<RopeConfig, 'type' | 'theta' | 'dim'> & Partial<RopeConfig>;

const plain: RopeConfig = {
  type: 'default',
  theta: 10000,
  dim: 0,
  interleaved: false,
  factor: 1,
  originalPositions: 2048,
  lowFreqFactor: 1,
  highFreqFactor: 4,
  betaFast: 32,
  betaSlow: 1,
  attentionFactor: undefined,
  mscale: undefined,
  mscaleAllDim: undefined,
  truncate: true,
  factors: undefined,
};

/** Rotary frequencies and the factor on cos and sin. @see Su et al. 2021, arXiv:2104.09864; Peng et al. 2023, arXiv:2309.00071 (YaRN) */
export function ropeFrequencies(options: RopeOptions): { invFreq: Float32Array; scale: number } {
  const config = { ...plain, ...options };
  const { dim, theta, factor } = config;
  const half = dim / 2;
  const base = Float64Array.from({ length: half }, (_, i) => theta ** ((-2 * i) / dim) / (config.factors?.[i] ?? 1));
  if (config.type === 'linear') return { invFreq: Float32Array.from(base, (f) => f / factor), scale: 1 };
  if (config.type === 'llama3') return { invFreq: llama3Frequencies(base, config), scale: 1 };
  if (config.type === 'yarn') return yarnFrequencies(base, config);
  return { invFreq: Float32Array.from(base), scale: 1 };
}

/** Long waves are stretched by `factor`, short ones kept, those between interpolated. @see Llama 3.1 model card, rope_scaling */
function llama3Frequencies(base: Float64Array, config: RopeConfig): Float32Array {
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalPositions } = config;
  return Float32Array.from(base, (f) => {
    const wavelength = (2 * Math.PI) / f;
    if (wavelength < originalPositions / high) return f;
    if (wavelength > originalPositions / low) return f / factor;
    const smooth = (originalPositions / wavelength - low) / (high - low);
    return (1 - smooth) * (f / factor) + smooth * f;
  });
}

function yarnFrequencies(base: Float64Array, config: RopeConfig): { invFreq: Float32Array; scale: number } {
  const { dim, theta, factor, originalPositions, mscale, mscaleAllDim } = config;
  const correction = (rotations: number): number =>
    (dim * Math.log(originalPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const round = (value: number, up: boolean): number =>
    !config.truncate ? value : up ? Math.ceil(value) : Math.floor(value);
  const low = Math.max(round(correction(config.betaFast), false), 0);
  const high = Math.min(round(correction(config.betaSlow), true), dim - 1);
  const invFreq = Float32Array.from(base, (f, i) => {
    const ramp = Math.min(Math.max((i - low) / Math.max(high - low, 0.001), 0), 1);
    return f * (1 - ramp) + (f / factor) * ramp;
  });
  const magnitude = (scale: number): number => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
  const scale =
    config.attentionFactor ?? (mscale && mscaleAllDim ? magnitude(mscale) / magnitude(mscaleAllDim) : magnitude(1));
  return { invFreq, scale };
}

/** A function that rotates [t, heads·headDim] by the positions of the step. */
export function rope(graph: Graph, options: RopeOptions, headDim: number): (x: Tensor) => Tensor {
  const config = { ...plain, ...options };
  const { invFreq, scale } = ropeFrequencies(config);
  const name = `rope.${config.type}.${config.theta}.${config.dim}.${config.factor}`;
  const frequencies = graph.constant(name, invFreq);
  const position = graph.input('position');
  return (x) =>
    ropeOp({ x, position, inv_freq: frequencies, head_dim: headDim, interleaved: config.interleaved, scale }).y;
}
