// One line an op; the order gives the opcodes, so append.
export { embedding } from './embedding.js';
export { linear } from './linear.js';
export { rmsNorm } from './rms-norm.js';
export { gatedRmsNorm } from './gated-rms-norm.js';
export { add } from './add.js';
export { actMul } from './act-mul.js';
export { rope } from './rope.js';
export { flashAttention } from './flash-attention.js';
export { causalConv1d } from './causal-conv1d.js';
export { selectiveScan } from './selective-scan.js';
export { ssd } from './ssd.js';
export { router } from './router.js';
export { moe } from './moe.js';
export { gatherRows } from './gather-rows.js';
export { sample } from './sample.js';
export { topProbabilities } from './top-probabilities.js';
