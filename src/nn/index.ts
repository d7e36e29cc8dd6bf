export { type AttentionConfig, attention } from './attention.js';
export { add, embed, gatedMlp, head, linear, norm } from './layers.js';
export { rope, ropeFrequencies } from './rope.js';
