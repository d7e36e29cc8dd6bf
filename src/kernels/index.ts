export {
  type DecodeArgs,
  type FlashAttentionArgs,
  flashAttention,
  flashAttentionDecode,
  KvCache,
  type KvCacheOptions,
} from './attention.js';
export { CrosscurrentError, type ErrorCode } from '../errors.js';
export { type Device, devices } from '../native/index.js';
export type { KvType } from '../ops/flash-attention.js';
export type { CallOptions, Kernel, KernelArgs, Ragged, Results, Shape } from './kernel.js';
export {
  type Activations,
  actMul,
  add,
  causalConv1d,
  embedding,
  gatedRmsNorm,
  gatherRows,
  int4Matmul,
  int8Matmul,
  linear,
  matmul,
  moe,
  rmsNorm,
  rope,
  router,
  selectiveScan,
  ssd,
} from './ops.js';
export {
  type RowOptions,
  type SampleOptions,
  sample,
  type TopProbabilitiesOptions,
  topProbabilities,
} from './sample.js';
export {
  type FloatsToPack,
  type HalfWeight,
  type Int4ToPack,
  type Int8ToPack,
  PackedWeight,
  type PackOptions,
  packInt4,
  packInt8,
  type Weight,
  type WeightShape,
} from './weights.js';
