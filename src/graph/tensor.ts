import type { Graph } from './graph.js';

/** A size known only when a step runs: `times` x tokens (`t`), sequences (`seqs`) or rows that want logits (`rows`). */
export interface RunTimeDim {
  readonly symbol: 't' | 'seqs' | 'rows';
  readonly times: number;
}
export type Dim = number | RunTimeDim;

export type DType =
  | 'f32'
  | 'f16'
  | 'bf16'
  | 'i32'
  | 'i8'
  | 'u8'
  | 'i64'
  | 'f64'
  | 'q8_0'
  | 'q4_0'
  | 'q4_1'
  | 'q5_0'
  | 'q5_1'
  | 'q4_k'
  | 'q5_k'
  | 'q6_k';

/** Numbers of the dtypes in a program; the same as `enum class DType` in native/dtype.h. */
export const dtypeNumber: Record<DType, number> = {
  f32: 0,
  f16: 1,
  bf16: 2,
  i32: 3,
  i8: 4,
  u8: 5,
  i64: 6,
  f64: 7,
  q8_0: 16,
  q4_0: 17,
  q4_1: 18,
  q5_0: 19,
  q5_1: 20,
  q4_k: 21,
  q5_k: 22,
  q6_k: 23,
};

/** Fixed arrays of a step that a graph can read. */
export const stepInputs = ['ids', 'position', 'rows'] as const;
export type StepInput = (typeof stepInputs)[number];

export type StateKind = 'kv' | 'conv' | 'scan';

export type Storage =
  | { readonly role: 'weight'; readonly index: number }
  | { readonly role: 'input'; readonly name: StepInput }
  | { readonly role: 'state'; readonly index: number; readonly kind: StateKind }
  | { readonly role: 'scratch'; readonly index: number };

/**
 * A symbolic tensor: a shape and where its elements will be. Views (`slice`, `reshape`) share the storage of what they view.
 * `rowStride` and `offset` are in elements; every axis but the first is contiguous.
 */
export interface Tensor {
  readonly graph: Graph;
  readonly id: number;
  readonly shape: readonly Dim[];
  readonly dtype: DType;
  readonly storage: Storage;
  readonly rowStride: number;
  readonly offset: number;
}
