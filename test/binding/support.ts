// Two small programs with weights made here: one with every kind of cache that copies and saves touch, one that runs for seconds.
import { compile, type Program } from '../../src/graph/compile.js';
import { Graph } from '../../src/graph/graph.js';
import {
  loadWeights,
  type NativeProgram,
  type NativeWeights,
  openBytes,
  openSession,
  parseProgram,
  type Session,
} from '../../src/native/index.js';
import { causalConv1d, embedding, flashAttention, gatherRows, linear, sample } from '../../src/ops/index.js';

export const pageTokens = 16;

/** A safetensors file of f32 tensors with small fixed values. */
export function safetensors(shapes: Readonly<Record<string, readonly number[]>>): Uint8Array {
  const header: Record<string, object> = {};
  let end = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const start = end;
    end += 4 * shape.reduce((product, n) => product * n, 1);
    header[name] = { dtype: 'F32', shape, data_offsets: [start, end] };
  }
  const json = new TextEncoder().encode(JSON.stringify(header).padEnd(8));
  const file = new Uint8Array(8 + json.length + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(json, 8);
  const values = new DataView(file.buffer, 8 + json.length);
  for (let i = 0; i < end / 4; i++) values.setFloat32(4 * i, (((i * 2654435761) >>> 8) % 1000) / 5000 - 0.1, true);
  return file;
}

export interface TestModel {
  readonly program: Program;
  readonly file: Uint8Array;
}

const vocab = 64;

function matrixOf(graph: Graph, name: string, shape: readonly number[]) {
  return graph.weight({ name, form: 'matrix', shape, parts: [{ tensor: name, shape }], transform: 'none' });
}

/** Embedding, convolution, attention, head, sampler. */
export async function tinyModel({ vocab: size = vocab, t = 32, rows = 32 } = {}): Promise<TestModel> {
  const dim = 32;
  const graph = new Graph();
  const shapes = { embedding: [size, dim], conv: [dim, 4], q: [dim, dim], k: [dim, dim], v: [dim, dim] };
  const embed = matrixOf(graph, 'embedding', shapes.embedding);
  const conv = graph.weight({
    name: 'conv',
    form: 'f32',
    shape: shapes.conv,
    parts: [{ tensor: 'conv', shape: shapes.conv }],
    transform: 'none',
  });
  const window = graph.state({ name: 'conv', kind: 'conv', elements: dim * 3, pendingElements: dim });
  const cache = graph.state({ name: 'kv', kind: 'kv', elements: 2 * dim, pendingElements: 1 });
  const project = (name: 'q' | 'k' | 'v', x: ReturnType<typeof matrixOf>) =>
    linear({ x, weight: matrixOf(graph, name, shapes[name]), scale: 1, exact: true }).y;
  const x = embedding({ ids: graph.input('ids'), weight: embed, scale: 1 }).y; // [t, dim]
  const mixed = causalConv1d({ x, weight: conv, window, activation: 'silu' }).y; // [t, dim]
  const attended = flashAttention({
    ...{ q: project('q', mixed), k: project('k', mixed), v: project('v', mixed) },
    ...{ cache, head_dim: 16, scale: 0.25, window: 0, softcap: 0 },
  }).y; // [t, dim]
  const wanted = gatherRows({ x: attended, index: graph.input('rows') }).y; // [rows, dim]
  const logits = linear({ x: wanted, weight: embed, scale: 1, exact: true }).y; // [rows, vocab]
  const { ids } = sample({ logits });
  const program = await compile(graph, { logits, ids }, { bounds: { t, seqs: 4, rows } });
  return { program, file: safetensors(shapes) };
}

/** One step of 256 tokens takes this program seconds. */
export async function slowModel(layers = 1500): Promise<TestModel> {
  const dim = 1024;
  const graph = new Graph();
  const shapes = { embedding: [vocab, dim], w: [dim, dim] };
  const embed = matrixOf(graph, 'embedding', shapes.embedding);
  let x = embedding({ ids: graph.input('ids'), weight: embed, scale: 1 }).y;
  const weight = matrixOf(graph, 'w', shapes.w);
  for (let i = 0; i < layers; i++) x = linear({ x, weight, scale: 1e-3, exact: true }).y;
  const logits = linear({
    x: gatherRows({ x, index: graph.input('rows') }).y,
    weight: embed,
    scale: 1,
    exact: true,
  }).y;
  return {
    program: await compile(graph, { logits }, { bounds: { t: 256, seqs: 1, rows: 1 } }),
    file: safetensors(shapes),
  };
}

export interface Opened {
  readonly model: TestModel;
  readonly program: NativeProgram;
  readonly weights: NativeWeights;
  readonly session: Session;
}

export async function open(model: TestModel, threads = 1): Promise<Opened> {
  const file = await openBytes(model.file, 'test.safetensors');
  const program = parseProgram(model.program.words);
  const weights = await loadWeights(file, program, model.program.weights);
  const options = { slots: 4, pages: 16, pageTokens, window: 8, threads };
  const session = await openSession(program, weights, options);
  file.close();
  return { model, program, weights, session };
}

export interface StepOptions {
  ids: readonly number[];
  decode?: boolean;
  slot?: number;
  length?: number;
  accepted?: readonly number[];
  pages?: readonly number[];
  /** Rows whose logits are wanted; the last token when absent. */
  rows?: readonly number[];
  samples?: boolean;
}

/** The words of a step of one sequence, greedy. */
export function stepOf(options: StepOptions): Int32Array {
  const { ids, decode = false, slot = 0, length = 0, accepted = [], pages = [0], samples = true } = options;
  const rows = options.rows ?? [ids.length - 1];
  const base = length + accepted.length;
  const one = new Int32Array(Float32Array.of(1).buffer)[0]!;
  const sampling = rows.flatMap((row) => [0, 0, one, 0, one, 0, 0, 1, 0, base + row + 1]);
  const none = new Array<number>(rows.length + 1).fill(0);
  return Int32Array.from([
    ...[decode ? 1 : 0, ids.length, 1, rows.length, pages.length, 0, 0, samples ? 1 : 0],
    ...ids,
    ...ids.map((_, i) => base + i),
    ...ids.map((_, i) => i - 1),
    ...[0, ids.length, slot, length, 0, accepted.length],
    ...accepted,
    ...pages,
    ...rows,
    ...(samples ? [...sampling, ...none, ...none] : []),
  ]);
}

/** A step of the slow program. */
export const slowStep = (): Int32Array =>
  stepOf({ ids: Array.from({ length: 256 }, (_, i) => i % vocab), pages: [], samples: false });
