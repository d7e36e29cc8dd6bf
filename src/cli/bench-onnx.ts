// Kernels as onnxruntime-node has them: a model of one node for each case that maps, timed in a process of its own.
import { performance } from 'node:perf_hooks';
import { answer } from './bench-serve.js';

/** A case of ours: the kernel's name and `KernelCase.axes`. */
export interface PeerCase {
  readonly op: string;
  readonly axes: Readonly<Record<string, unknown>>;
}

type Numbers = Float32Array | Uint8Array | Int32Array;

/** What is used of onnxruntime-node 1. @see https://onnxruntime.ai/docs/api/js/index.html */
interface OnnxPackage {
  readonly InferenceSession: { create(model: Uint8Array, options: object): Promise<OnnxSession> };
  readonly Tensor: new (type: string, data: Numbers | BigInt64Array, dims: readonly number[]) => unknown;
}

interface OnnxSession {
  run(feeds: Record<string, unknown>, fetches: Record<string, unknown>): Promise<unknown>;
  release(): Promise<void>;
}

interface Value {
  readonly name: string;
  readonly data: Numbers;
  readonly shape: readonly number[];
}

/** One node with operands at random: `constants` are held by the model, as weights are. */
interface OneNode {
  readonly operator: string;
  readonly domain?: string;
  readonly attributes?: Readonly<Record<string, number | { readonly float: number }>>;
  /** In the order of the operator; an empty name leaves one out. */
  readonly inputs: readonly string[];
  readonly feeds: readonly Value[];
  readonly constants: readonly Value[];
  readonly output: Value & { readonly wide?: boolean };
  /** Outputs beside the first, of no interest. */
  readonly more?: readonly string[];
}

const contrib = 'com.microsoft';
const floats = (length: number): Float32Array => Float32Array.from({ length }, () => 2 * Math.random() - 1);
const bytes = (length: number): Uint8Array => Uint8Array.from({ length }, () => 256 * Math.random());
const value = (name: string, data: Numbers, ...shape: number[]): Value => ({ name, data, shape });

/** Undefined where onnxruntime has no operator on the CPU that computes the same. @see https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md */
export function nodeOf({ op, axes }: PeerCase): OneNode | undefined {
  const size = (key: string): number => axes[key] as number;
  const [rows, into, out] = [size('rows'), size('in'), size('out')];
  switch (op) {
    case 'matmul':
      if (axes.dtype !== 'f32') return undefined; // Gemm of 16-bit numbers is not among its CPU kernels
      return {
        operator: 'Gemm',
        attributes: { transB: 1 },
        inputs: ['x', 'weight', 'bias'],
        feeds: [value('x', floats(rows * into), rows, into)],
        constants: [value('weight', floats(out * into), out, into), value('bias', floats(out), out)],
        output: value('y', new Float32Array(rows * out), rows, out),
      };
    case 'int4Matmul':
    case 'int8Matmul':
      return axes.exact ? undefined : packedNode(op === 'int4Matmul' ? 4 : 8, rows, into, out, axes);
    case 'rmsNorm': {
      if (size('groups') !== 1 || axes.hasWeight === false) return undefined;
      const width = size('width');
      return {
        operator: 'SimplifiedLayerNormalization',
        attributes: { axis: -1, epsilon: { float: 1e-5 }, stash_type: 1 },
        inputs: ['x', 'weight'],
        feeds: [value('x', floats(rows * width), rows, width)],
        constants: [value('weight', floats(width), width)],
        output: value('y', new Float32Array(rows * width), rows, width),
      };
    }
    case 'gatherRows': {
      const [t, dim] = [size('t'), size('dim')];
      const index = Int32Array.from({ length: rows }, () => t * Math.random());
      return {
        operator: 'Gather',
        inputs: ['x', 'index'],
        feeds: [value('x', floats(t * dim), t, dim), value('index', index, rows)],
        constants: [],
        output: value('y', new Float32Array(rows * dim), rows, dim),
      };
    }
    case 'sample': {
      const vocab = size('vocab');
      return {
        operator: 'ArgMax',
        attributes: { axis: 1, keepdims: 0 },
        inputs: ['logits'],
        feeds: [value('logits', floats(rows * vocab), rows, vocab)],
        constants: [],
        output: { ...value('ids', new Int32Array(rows), rows), wide: true },
      };
    }
    case 'flashAttention':
      if ((axes.kv ?? 'f32') !== 'f32') return undefined; // its own 16-bit caches are slower than f32 on a CPU
      return attentionNode(axes);
    default:
      return undefined;
  }
}

/** Activations rounded to int8 per block (`accuracy_level` 4), as ours are. */
function packedNode(
  bits: 4 | 8,
  rows: number,
  into: number,
  out: number,
  axes: Readonly<Record<string, unknown>>,
): OneNode {
  const group = axes.group as number;
  const blocks = into / group;
  const zeros = axes.zeros
    ? [value('zeros', bytes(out * Math.ceil((blocks * bits) / 8)), out * Math.ceil((blocks * bits) / 8))]
    : [];
  return {
    operator: 'MatMulNBits',
    domain: contrib,
    attributes: { K: into, N: out, bits, block_size: group, accuracy_level: 4 },
    inputs: ['x', 'weight', 'scales', ...zeros.map(({ name }) => name)],
    feeds: [value('x', floats(rows * into), rows, into)],
    constants: [
      value('weight', bytes((out * into * bits) / 8), out, blocks, (group * bits) / 8),
      value('scales', floats(out * blocks), out * blocks),
      ...zeros,
    ],
    output: value('y', new Float32Array(rows * out), rows, out),
  };
}

/** Causal attention of one sequence that begins with the call: a prompt. */
function attentionNode(axes: Readonly<Record<string, unknown>>): OneNode | undefined {
  const { seqs, heads, kvHeads, headDim, window, sinks, causal } = axes as {
    seqs: readonly (readonly [number, number])[];
    heads: number;
    kvHeads: number;
    headDim: number;
    window?: number;
    sinks?: boolean;
    causal?: boolean;
  };
  const [t, keys] = seqs[0] ?? [0, 0];
  if (seqs.length !== 1 || t !== keys || sinks || window || causal === false) return undefined;
  const width = kvHeads * headDim;
  return {
    operator: 'GroupQueryAttention',
    domain: contrib,
    attributes: { num_heads: heads, kv_num_heads: kvHeads },
    inputs: ['q', 'k', 'v', '', '', 'last', 'total'],
    feeds: [
      value('q', floats(t * heads * headDim), 1, t, heads * headDim),
      value('k', floats(t * width), 1, t, width),
      value('v', floats(t * width), 1, t, width),
      value('last', Int32Array.of(t - 1), 1),
      value('total', Int32Array.of(t)),
    ],
    constants: [],
    output: value('y', new Float32Array(t * heads * headDim), 1, t, heads * headDim),
    more: ['present_k', 'present_v'],
  };
}

/** Commands: `prepare` resolves to whether the case maps, `time` to the microseconds of calls, `cpu` to what all took. */
export function serveOnnx({ InferenceSession, Tensor }: OnnxPackage): void {
  let call: () => Promise<unknown> = async () => undefined;
  let session: OnnxSession | undefined;
  answer({
    async prepare({ one, threads }: { one: PeerCase; threads: number }): Promise<boolean> {
      await session?.release();
      session = undefined;
      const node = nodeOf(one);
      if (!node) return false;
      const made = await InferenceSession.create(encodeModel(node), {
        executionProviders: ['cpu'],
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        logSeverityLevel: 3,
      });
      const tensor = ({ data, shape }: Value): unknown => new Tensor(typeName[elementType(data)], data, shape);
      const feeds = Object.fromEntries(node.feeds.map((one) => [one.name, tensor(one)]));
      const { output } = node;
      const result = output.wide
        ? new Tensor('int64', new BigInt64Array(output.data.length), output.shape)
        : tensor(output);
      session = made;
      call = () => made.run(feeds, { [output.name]: result });
      await call();
      return true;
    },
    /** Microseconds of all threads so far. */
    async cpu(): Promise<number> {
      const { user, system } = process.cpuUsage();
      return user + system;
    },
    async time({ milliseconds }: { milliseconds: number }): Promise<number[]> {
      const samples: number[] = [];
      const end = performance.now() + milliseconds;
      while (samples.length === 0 || (performance.now() < end && samples.length < 20_000)) {
        const start = performance.now();
        await call();
        samples.push(1000 * (performance.now() - start));
      }
      return samples;
    },
  });
}

const typeName = { 1: 'float32', 2: 'uint8', 6: 'int32' } as const;
const elementType = (data: Numbers): 1 | 2 | 6 =>
  data instanceof Float32Array ? 1 : data instanceof Uint8Array ? 2 : 6;

/** The few messages of the format that a model of one node needs. @see https://github.com/onnx/onnx/blob/main/onnx/onnx.proto */
export function encodeModel({
  operator,
  domain = '',
  attributes = {},
  inputs,
  feeds,
  constants,
  output,
  more = [],
}: OneNode): Uint8Array {
  const dims = (shape: readonly number[]): Buffer => message(...shape.map((n) => field(1, message(integer(1, n)))));
  const info = ({ name, shape }: Value, type: number): Buffer =>
    message(text(1, name), field(2, message(field(1, message(integer(1, type), field(2, dims(shape)))))));
  const attribute = ([name, given]: [string, number | { readonly float: number }]): Buffer =>
    field(
      5,
      typeof given === 'number'
        ? message(text(1, name), integer(3, given), integer(20, 2))
        : message(text(1, name), float(2, given.float), integer(20, 1)),
    );
  const node = message(
    ...inputs.map((name) => text(1, name)),
    ...[output.name, ...more].map((name) => text(2, name)),
    text(4, operator),
    ...Object.entries(attributes).map(attribute),
    text(7, domain),
  );
  const initializer = ({ name, data, shape }: Value): Buffer =>
    message(
      ...shape.map((n) => integer(1, n)),
      integer(2, elementType(data)),
      text(8, name),
      field(9, Buffer.from(data.buffer, data.byteOffset, data.byteLength)),
    );
  const graph = message(
    field(1, node),
    text(2, operator),
    ...constants.map((one) => field(5, initializer(one))),
    ...feeds.map((one) => field(11, info(one, elementType(one.data)))),
    field(12, info(output, output.wide ? 7 : elementType(output.data))),
  );
  const opset = (name: string, version: number): Buffer => field(8, message(text(1, name), integer(2, version)));
  return message(integer(1, 10), field(7, graph), opset('', 17), opset(contrib, 1));
}

const message = (...fields: Buffer[]): Buffer => Buffer.concat(fields);

/** Seven bits a byte, the lowest first; negative numbers as 64 bits of two's complement. */
function varint(given: number): Buffer {
  const out: number[] = [];
  let rest = BigInt.asUintN(64, BigInt(given));
  do {
    const low = Number(rest & 0x7fn);
    rest >>= 7n;
    out.push(rest > 0n ? low | 0x80 : low);
  } while (rest > 0n);
  return Buffer.from(out);
}

const integer = (number: number, given: number): Buffer => Buffer.concat([varint(number << 3), varint(given)]);
const field = (number: number, body: Buffer): Buffer =>
  Buffer.concat([varint((number << 3) | 2), varint(body.length), body]);
const text = (number: number, given: string): Buffer => field(number, Buffer.from(given));

function float(number: number, given: number): Buffer {
  const body = Buffer.alloc(4);
  body.writeFloatLE(given);
  return Buffer.concat([varint((number << 3) | 5), body]);
}
