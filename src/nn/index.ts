export { type AttentionConfig, attention } from './attention.js';
export { type DecoderConfig, type DecoderNames, decoder } from './decoder.js';
export {
  add,
  type Block,
  embed,
  gatedMlp,
  type HeadConfig,
  head,
  linear,
  type MlpConfig,
  mlp,
  norm,
  type Residual,
} from './layers.js';
export { type Mamba1Config, mamba1 } from './mamba1.js';
export { type Mamba2Config, mamba2 } from './mamba2.js';
export { type MoeConfig, moe } from './moe.js';
export { type RopeOptions, rope, ropeFrequencies } from './rope.js';
