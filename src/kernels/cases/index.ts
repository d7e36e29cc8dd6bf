import type { KernelCase } from './case.js';
import { int4Case, int8Case, linearCase, matmulCase, moeCase, routerCase } from './matrix.js';
import * as rows from './rows.js';
import { attentionCase, convCase, decodeCase, scanCase, ssdCase } from './sequence.js';

export { errorOf, type KernelCase, Random } from './case.js';

/** A case that is made when its turn comes: its operands may be large. */
export interface NamedCase {
  readonly op: string;
  make(): KernelCase | Promise<KernelCase>;
}

const named = (op: string, ...makers: NamedCase['make'][]): NamedCase[] => makers.map((make) => ({ op, make }));

const smallTypes = ['f16', 'bf16', 'int8'] as const;

/** Every kernel on sizes of one, odd sizes, and one on either side of what it works on at a time: what `check` and the tests compare. */
export const checkCases: readonly NamedCase[] = [
  ...named(
    'embedding',
    () => rows.embeddingCase({ t: 1, vocab: 1, dim: 1 }),
    () => rows.embeddingCase({ t: 33, vocab: 101, dim: 17 }),
  ),
  ...named(
    'linear',
    () => linearCase({ rows: 1, in: 1, out: 1 }),
    () => linearCase({ rows: 5, in: 33, out: 17 }),
    () => linearCase({ rows: 13, in: 576, out: 49 }),
  ),
  ...named(
    'matmul',
    ...(['f32', 'f16', 'bf16'] as const).flatMap((dtype) => [
      () => matmulCase({ rows: 1, in: 1, out: 1 }, dtype),
      () => matmulCase({ rows: 7, in: 31, out: 15 }, dtype),
      () => matmulCase({ rows: 3, in: 1024, out: 65 }, dtype),
      () => matmulCase({ rows: 13, in: 1043, out: 33 }, dtype),
    ]),
  ),
  ...named(
    'int8Matmul',
    () => int8Case({ rows: 1, in: 32, out: 1, group: 32 }),
    () => int8Case({ rows: 5, in: 256, out: 17, group: 64 }),
    () => int8Case({ rows: 13, in: 384, out: 33, group: 128 }),
    () => int8Case({ rows: 3, in: 96, out: 31, group: 32, exact: true }),
  ),
  ...named(
    'int4Matmul',
    () => int4Case({ rows: 1, in: 32, out: 1, group: 32 }),
    () => int4Case({ rows: 5, in: 256, out: 17, group: 64, zeros: true }),
    () => int4Case({ rows: 13, in: 384, out: 33, group: 128, zeros: true, wide: true }),
    () => int4Case({ rows: 3, in: 96, out: 31, group: 32, exact: true }),
    () => int4Case({ rows: 3, in: 128, out: 16, group: 128, zeros: true, exact: true }),
    () => int4Case({ rows: 2, in: 512, out: 47, group: 512, wide: true, exact: true }),
  ),
  ...named(
    'rmsNorm',
    () => rows.rmsNormCase({ rows: 1, groups: 1, width: 1 }),
    () => rows.rmsNormCase({ rows: 3, groups: 2, width: 31 }),
    () => rows.rmsNormCase({ rows: 5, groups: 1, width: 4096 }, false),
  ),
  ...named(
    'gatedRmsNorm',
    () => rows.gatedRmsNormCase({ rows: 1, groups: 1, width: 1 }),
    () => rows.gatedRmsNormCase({ rows: 3, groups: 2, width: 31 }),
    () => rows.gatedRmsNormCase({ rows: 5, groups: 2, width: 1024 }),
  ),
  ...named(
    'add',
    () => rows.addCase({ rows: 1, dim: 1 }),
    () => rows.addCase({ rows: 7, dim: 1023 }),
  ),
  ...named(
    'actMul',
    () => rows.actMulCase({ rows: 1, ff: 1 }),
    ...(['none', 'silu', 'gelu', 'relu2'] as const).map(
      (activation) => () => rows.actMulCase({ rows: 3, ff: 517 }, activation, activation !== 'none'),
    ),
  ),
  ...named(
    'rope',
    () => rows.ropeCase({ t: 1, heads: 1, headDim: 2, half: 1 }),
    () => rows.ropeCase({ t: 33, heads: 3, headDim: 64, half: 32 }),
    () => rows.ropeCase({ t: 9, heads: 2, headDim: 37, half: 16 }, true),
  ),
  ...named(
    'flashAttention',
    () => attentionCase({ seqs: [[1, 1]], heads: 1, kvHeads: 1, headDim: 1 }),
    () =>
      attentionCase({
        seqs: [
          [33, 33],
          [1, 1],
          [70, 70],
        ],
        heads: 6,
        kvHeads: 2,
        headDim: 33,
      }),
    () => attentionCase({ seqs: [[130, 130]], heads: 4, kvHeads: 4, headDim: 64, window: 31, softcap: 5, sinks: true }),
    () =>
      attentionCase({
        seqs: [
          [5, 77],
          [3, 1100],
        ],
        heads: 4,
        kvHeads: 2,
        headDim: 32,
      }),
    () =>
      attentionCase({
        seqs: [
          [7, 45],
          [40, 33],
        ],
        heads: 2,
        kvHeads: 1,
        headDim: 16,
        causal: false,
        sinks: true,
      }),
    () =>
      attentionCase({
        seqs: [
          [70, 70],
          [3, 1050],
        ],
        heads: 6,
        kvHeads: 2,
        headDim: 33,
        alibi: true,
        softcap: 4,
      }),
    () => attentionCase({ seqs: [[5, 40]], heads: 2, kvHeads: 2, headDim: 16, alibi: true, causal: false }),
    ...smallTypes.flatMap((kv) => [
      () => attentionCase({ seqs: [[70, 70]], heads: 3, kvHeads: 1, headDim: 64, kv }),
      () =>
        attentionCase({
          seqs: [
            [5, 77],
            [3, 1030],
          ],
          heads: 8,
          kvHeads: 2,
          headDim: 37,
          sinks: true,
          kv,
        }),
    ]),
  ),
  ...named(
    'flashAttentionDecode',
    () => decodeCase({ seqs: [[1, 1]], heads: 1, kvHeads: 1, headDim: 1 }),
    () =>
      decodeCase({
        seqs: [
          [1, 33],
          [1, 1],
          [1, 1300],
        ],
        heads: 6,
        kvHeads: 2,
        headDim: 32,
      }),
    () => decodeCase({ seqs: [[1, 2100]], heads: 8, kvHeads: 2, headDim: 64, window: 1500, sinks: true }),
    ...smallTypes.flatMap((kv) => [
      () => decodeCase({ seqs: [[1, 1100]], heads: 6, kvHeads: 2, headDim: 33, kv }),
      () => decodeCase({ seqs: [[1, 40]], heads: 9, kvHeads: 1, headDim: 72, softcap: 3, alibi: true, kv }),
    ]),
  ),
  ...named(
    'causalConv1d',
    () => convCase({ t: 1, channels: 1, kernel: 2 }),
    () => convCase({ t: 9, channels: 67, kernel: 4 }),
    () => convCase({ t: 130, channels: 300, kernel: 8 }),
  ),
  ...named(
    'selectiveScan',
    () => scanCase({ t: 1, channels: 1, states: 1 }),
    () => scanCase({ t: 9, channels: 67, states: 16 }, false),
    () => scanCase({ t: 130, channels: 129, states: 5 }),
  ),
  ...named(
    'ssd',
    () => ssdCase({ t: 1, heads: 1, headDim: 1, groups: 1, states: 1 }),
    () => ssdCase({ t: 9, heads: 6, headDim: 33, groups: 2, states: 17 }, false),
    () => ssdCase({ t: 130, heads: 4, headDim: 64, groups: 1, states: 128 }),
  ),
  ...named(
    'router',
    () => routerCase({ t: 1, experts: 1, topK: 1 }),
    ...(['softmax_topk', 'topk_softmax', 'sigmoid'] as const).map(
      (rule) => () => routerCase({ t: 33, experts: 31, topK: 5 }, rule),
    ),
  ),
  ...named(
    'moe',
    () => moeCase({ t: 1, experts: 1, topK: 1, dim: 1, ff: 1 }),
    () => moeCase({ t: 37, experts: 7, topK: 3, dim: 33, ff: 17 }),
    () => moeCase({ t: 19, experts: 5, topK: 2, dim: 96, ff: 64 }, 'int4'),
    () => moeCase({ t: 70, experts: 5, topK: 2, dim: 96, ff: 64 }, 'int4 fast'),
  ),
  ...named(
    'gatherRows',
    () => rows.gatherRowsCase({ t: 1, rows: 1, dim: 1 }),
    () => rows.gatherRowsCase({ t: 33, rows: 70, dim: 31 }),
  ),
  ...named(
    'sample',
    () => rows.sampleCase({ rows: 1, vocab: 1 }),
    () => rows.sampleCase({ rows: 5, vocab: 4099 }),
  ),
  ...named(
    'topProbabilities',
    () => rows.topProbabilitiesCase({ rows: 1, vocab: 3, topK: 4 }),
    () => rows.topProbabilitiesCase({ rows: 5, vocab: 4099, topK: 64 }),
  ),
];

/** Sizes of models: what `bench` measures. */
export const benchCases: readonly NamedCase[] = [
  ...named('embedding', () => rows.embeddingCase({ t: 512, vocab: 4096, dim: 2048 })),
  ...named(
    'matmul',
    () => matmulCase({ rows: 1, in: 4096, out: 4096 }),
    () => matmulCase({ rows: 128, in: 2048, out: 2048 }),
    () => matmulCase({ rows: 1, in: 4096, out: 4096 }, 'bf16'),
    () => matmulCase({ rows: 128, in: 2048, out: 2048 }, 'bf16'),
  ),
  ...named(
    'int8Matmul',
    () => int8Case({ rows: 1, in: 4096, out: 4096, group: 32 }),
    () => int8Case({ rows: 128, in: 4096, out: 4096, group: 32 }),
  ),
  ...named(
    'int4Matmul',
    () => int4Case({ rows: 1, in: 4096, out: 4096, group: 128 }),
    () => int4Case({ rows: 1, in: 4096, out: 32768, group: 128 }), // more than a cache holds
    () => int4Case({ rows: 8, in: 4096, out: 4096, group: 128 }),
    () => int4Case({ rows: 512, in: 4096, out: 4096, group: 128 }),
    () => int4Case({ rows: 1, in: 4096, out: 4096, group: 32, zeros: true }),
  ),
  ...named(
    'rmsNorm',
    () => rows.rmsNormCase({ rows: 1, groups: 1, width: 4096 }),
    () => rows.rmsNormCase({ rows: 2048, groups: 1, width: 2048 }),
  ),
  ...named('gatedRmsNorm', () => rows.gatedRmsNormCase({ rows: 512, groups: 1, width: 4096 })),
  ...named('add', () => rows.addCase({ rows: 2048, dim: 2048 })),
  ...named('actMul', () => rows.actMulCase({ rows: 512, ff: 8192 })),
  ...named('rope', () => rows.ropeCase({ t: 512, heads: 32, headDim: 128, half: 64 })),
  ...named(
    'flashAttention',
    ...(['f32', ...smallTypes] as const).map(
      (kv) => () => attentionCase({ seqs: [[2048, 2048]], heads: 32, kvHeads: 8, headDim: 128, kv }),
    ),
  ),
  ...named(
    'flashAttentionDecode',
    ...[2048, 32768].flatMap((keys) =>
      (['f32', ...smallTypes] as const).map(
        (kv) => () => decodeCase({ seqs: [[1, keys]], heads: 32, kvHeads: 8, headDim: 128, kv }),
      ),
    ),
  ),
  ...named(
    'causalConv1d',
    () => convCase({ t: 1, channels: 4096, kernel: 4 }),
    () => convCase({ t: 2048, channels: 1536, kernel: 4 }),
  ),
  ...named(
    'selectiveScan',
    () => scanCase({ t: 2048, channels: 1536, states: 16 }),
    () => scanCase({ t: 1, channels: 4096, states: 16 }),
  ),
  ...named(
    'ssd',
    () => ssdCase({ t: 2048, heads: 64, headDim: 64, groups: 1, states: 128 }),
    () => ssdCase({ t: 1, heads: 64, headDim: 64, groups: 1, states: 128 }),
  ),
  ...named('router', () => routerCase({ t: 512, experts: 128, topK: 8 })),
  ...named(
    'moe',
    () => moeCase({ t: 1, experts: 128, topK: 8, dim: 2048, ff: 768 }, 'int4 fast'),
    () => moeCase({ t: 512, experts: 128, topK: 8, dim: 2048, ff: 768 }, 'int4 fast'),
  ),
  ...named('gatherRows', () => rows.gatherRowsCase({ t: 2048, rows: 512, dim: 2048 })),
  ...named('sample', () => rows.sampleCase({ rows: 1, vocab: 128256 })),
  ...named('topProbabilities', () => rows.topProbabilitiesCase({ rows: 1, vocab: 128256, topK: 64 })),
];
