export { defineModel, type BuiltModel, type ModelDefinition, type ModelShape } from '../models/define.js';
export * as nn from '../nn/index.js';
export * as ops from '../ops/index.js';
export { Config, type RawConfig, type RopeConfig } from '../weights/config.js';
export { type NamedTensors, saveSafetensors } from '../weights/safetensors.js';
export { type Checkpoint, type StoredTensor, Weights } from '../weights/weights.js';
export { type Bounds, type CompileOptions, compile, type Program } from './compile.js';
export { Graph, type Node, type StateSpec, type WeightPart, type WeightSpec } from './graph.js';
export type { Dim, DType, RunTimeDim, StateKind, Tensor } from './tensor.js';
