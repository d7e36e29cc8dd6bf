export { Cascade, type CascadeGenerateOptions, type CascadeOptions, cascade } from './cascade.js';
export type { CascadeRule } from './cascade-rules.js';
export { draftModel } from './draft-model.js';
export { type LookaheadOptions, lookahead } from './lookahead.js';
export { type PromptLookupOptions, promptLookup } from './prompt-lookup.js';
export { type SelfDraftOptions, selfDraft } from './self-draft.js';
export { type TreeOptions, tree } from './tree.js';
