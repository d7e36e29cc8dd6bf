export { type AttentionShape, flashAttention, keptRows } from './attention.js';
export { linear, moe, roundActivations, router } from './matrix.js';
export { causalConv1d, selectiveScan, ssd } from './recurrence.js';
export { actMul, add, gatedRmsNorm, gather, type Numbers, rmsNorm, rope } from './rows.js';
export { distribution } from './sample.js';
