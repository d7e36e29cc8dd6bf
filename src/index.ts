export { CrosscurrentError, type ErrorCode, type ErrorDetails, errorCodes } from './errors.js';
export type { Generation } from './generate/generation.js';
export type { Completion, FinishReason, GenerateOptions, GenerationStats, Piece, Prompt } from './generate/options.js';
export type { SamplingOptions } from './generate/sampling.js';
export type { SchedulerStats } from './generate/scheduler.js';
export type { Sequence } from './generate/sequence.js';
export type {
  Branch,
  BranchRequest,
  Draft,
  Drafter,
  DraftOutcome,
  DraftRequest,
  Speculation,
  SpeculationStats,
  SpeculationTarget,
} from './generate/speculation.js';
export { type Inspection, inspect } from './inspect.js';
export { type LoadOptions, load } from './load.js';
export type { ExpertLoad, Model, ModelInfo, ModelStats } from './model.js';
export type { MemoryPlan, PlanOptions } from './model-plan.js';
export { type Device, devices } from './native/index.js';
export type { KvType } from './ops/flash-attention.js';
export type { PrefixCacheStats } from './state/prefix-cache.js';
export type { ChatMessage, DecodeOptions, EncodeOptions, Tokenizer, TokenStream } from './text/index.js';
export type { ModelSource } from './weights/open.js';
export {
  type Cascade,
  type CascadeGenerateOptions,
  type CascadeOptions,
  type CascadeRule,
  cascade,
  draftModel,
  type LookaheadOptions,
  lookahead,
  type PromptLookupOptions,
  promptLookup,
  type SelfDraftOptions,
  selfDraft,
  type TreeOptions,
  tree,
} from './speculate/index.js';
export { version } from './version.js';
