// Written by scripts/gen.ts from src/ops. Do not edit.
export const opcodes = {
  embedding: 0,
  linear: 1,
  rms_norm: 2,
  gated_rms_norm: 3,
  add: 4,
  act_mul: 5,
  rope: 6,
  flash_attention: 7,
  causal_conv1d: 8,
  selective_scan: 9,
  ssd: 10,
  router: 11,
  moe: 12,
  gather_rows: 13,
  sample: 14,
  top_probabilities: 15,
} as const;

/** Native code refuses a program made with other declarations than its own. */
export const signatureHash = -402898993;
