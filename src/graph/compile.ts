import { mismatch } from '../errors.js';
import { opcodes, signatureHash } from '../ops/opcodes.gen.js';
import { turn } from '../turn.js';
import type { Graph, Node, StateSpec, WeightSpec } from './graph.js';
import { planArena } from './plan.js';
import { printProgram } from './print.js';
import { type Dim, dtypeNumber, stepInputs, type Tensor } from './tensor.js';

/** Largest run-time sizes a program is planned for. */
export interface Bounds {
  /** Tokens of a step. */
  readonly t: number;
  /** Sequences of a step. */
  readonly seqs: number;
  /** Rows of a step that want logits. */
  readonly rows: number;
}

export interface CompileOptions {
  bounds: Bounds;
  /** Keeps every intermediate for `session.trace()`, at the price of memory. */
  keepAll?: boolean;
  /** Outputs of another program of the graph, whose weights this one is to be bound to. */
  weightsOf?: readonly Tensor[];
}

/** A compiled graph: words for native code, and what is needed to bind weights and states to it. */
export interface Program {
  /** Format: `docs/architecture.md`, "Program". */
  readonly words: Int32Array;
  readonly bounds: Bounds;
  readonly weights: readonly WeightSpec[];
  readonly states: readonly StateSpec[];
  readonly arenaBytes: number;
  /** Buffer numbers of labelled tensors and of `logits` and `ids`. */
  readonly labels: ReadonlyMap<string, number>;
  /** Names of its `moe` ops in order: the labels of their choices of experts, without what comes after the layer. */
  readonly experts: readonly string[];
  /** One line an op. */
  print(): string;
}

export const programMagic = 0x31504343; // "CCP1"
export const headerWords = 12;
export const bufferWords = 12;

const roleNumber = { weight: 0, input: 1, state: 2, scratch: 3 } as const;
const symbolNumber = { t: 1, seqs: 2, rows: 3 } as const;
const stateNumber = { kv: 0, conv: 1, scan: 2 } as const;
const formNumber = { f32: 0, matrix: 1 } as const;
const arenaUnit = 64;
/** Nodes lowered before the event loop gets its turn: a millisecond's work of code that runs for the first time. */
const nodesATurn = 8;

export const boundOf = (dim: Dim, bounds: Bounds): number =>
  typeof dim === 'number' ? dim : dim.times * bounds[dim.symbol];

/** Lowers a graph to a program: buffers with places in one arena, then the ops in order. Gives the event loop its turns. */
export async function compile(
  graph: Graph,
  outputs: { logits: Tensor; ids?: Tensor },
  options: CompileOptions,
): Promise<Program> {
  const { bounds } = options;
  for (const [name, value] of Object.entries(bounds))
    if (!Number.isInteger(value) || value < 1)
      throw mismatch('INVALID_ARGUMENT', `bounds.${name}`, 'a positive integer', value);
  const nodes = reachable(graph, Object.values(outputs));
  await turn();
  const plan = await planArena(graph, nodes, Object.values(outputs), bounds, options.keepAll ?? false);

  const operands = nodes.flatMap((node) => Object.values(node.operands));
  const usesState = new Set(operands.map((tensor) => (tensor?.storage.role === 'state' ? tensor.storage.index : -1)));
  const states = graph.states.filter((_, index) => usesState.has(index));
  const buffers: number[] = [];
  const numbers = new Map<number, number>();
  const bufferOf = (tensor: Tensor): number => {
    const existing = numbers.get(tensor.id);
    if (existing !== undefined) return existing;
    const number = numbers.size;
    numbers.set(tensor.id, number);
    buffers.push(...bufferEntry(graph, states, tensor, plan.offsets));
    return number;
  };
  const f32Bits = new DataView(new ArrayBuffer(4));
  const records: number[] = [];
  for (const [at, node] of nodes.entries()) {
    if (at % nodesATurn === nodesATurn - 1) await turn();
    const { name, inputs, outputs: results, attrs } = node.declaration;
    const record = [opcodes[name as keyof typeof opcodes], 0];
    for (const key of Object.keys(inputs)) {
      const tensor = node.operands[key];
      record.push(tensor ? bufferOf(tensor) : -1);
    }
    for (const key of Object.keys(results)) record.push(bufferOf(node.results[key] as Tensor));
    for (const [key, type] of Object.entries(attrs)) {
      const value = node.attrs[key] as number;
      f32Bits.setFloat32(0, value);
      record.push(type === 'f32' ? f32Bits.getInt32(0) : value);
    }
    record[1] = record.length;
    records.push(...record);
  }
  await turn();
  for (const node of reachable(graph, options.weightsOf ?? []))
    for (const tensor of Object.values(node.operands)) if (tensor?.storage.role === 'weight') bufferOf(tensor);
  const labels = new Map<string, number>();
  const kept = new Set(nodes.flatMap((node) => Object.values(node.results).map((tensor) => tensor.id)));
  for (const [label, tensor] of graph.labels)
    if (kept.has(tensor.id) || numbers.has(tensor.id)) labels.set(label, bufferOf(tensor));
  const logits = bufferOf(outputs.logits);
  const ids = outputs.ids ? bufferOf(outputs.ids) : -1;
  const header = [
    programMagic,
    signatureHash,
    numbers.size,
    nodes.length,
    bounds.t,
    bounds.seqs,
    bounds.rows,
    plan.bytes / arenaUnit,
    logits,
    ids,
    graph.weights.length,
    states.length,
  ];
  const words = [...header, ...buffers, ...records];
  const large = words.find((word) => (word | 0) !== word);
  if (large !== undefined)
    throw mismatch('INVALID_ARGUMENT', 'graph', 'sizes and offsets of less than 2^31', String(large));
  return {
    words: Int32Array.from(words),
    bounds,
    weights: graph.weights,
    states,
    arenaBytes: plan.bytes,
    labels,
    experts: expertNames(graph, nodes),
    print: () => printProgram(graph, nodes, bounds, plan),
  };
}

function expertNames(graph: Graph, nodes: readonly Node[]): string[] {
  const labels = new Map([...graph.labels].map(([label, { storage }]) => [storage, label]));
  const choices = nodes.filter(({ declaration }) => declaration.name === 'moe').map(({ operands }) => operands.ids);
  return choices.map((ids, i) => (ids && labels.get(ids.storage))?.replace(/\.router\.ids$/, '') ?? `moe.${i}`);
}

/** Twelve words: role, dtype, rank, symbol, times, dims 1..3, row stride, index, offset, detail. */
function bufferEntry(graph: Graph, states: readonly StateSpec[], tensor: Tensor, offsets: readonly number[]): number[] {
  const { storage, shape } = tensor;
  const lead = shape[0] ?? 1;
  const inner = [1, 2, 3].map((axis) => (shape[axis] as number | undefined) ?? 1);
  const index =
    storage.role === 'input'
      ? stepInputs.indexOf(storage.name)
      : storage.role === 'scratch'
        ? (offsets[storage.index] as number) / arenaUnit
        : storage.index;
  const detail =
    storage.role === 'state'
      ? stateNumber[storage.kind]
      : storage.role === 'weight'
        ? formNumber[(graph.weights[storage.index] as WeightSpec).form]
        : 0;
  if (storage.role === 'state') {
    const spec = graph.states[storage.index] as StateSpec;
    const { elements, pendingElements } = spec;
    return [
      roleNumber.state,
      dtypeNumber.f32,
      0,
      0,
      1,
      elements,
      pendingElements,
      1,
      0,
      states.indexOf(spec),
      0,
      detail,
    ];
  }
  return [
    roleNumber[storage.role],
    dtypeNumber[tensor.dtype],
    shape.length,
    typeof lead === 'number' ? 0 : symbolNumber[lead.symbol],
    typeof lead === 'number' ? lead : lead.times,
    ...inner,
    tensor.rowStride,
    index,
    tensor.offset,
    detail,
  ];
}

/** Nodes that an output or a state depends on, in their order. */
function reachable(graph: Graph, outputs: readonly Tensor[]): Node[] {
  const wanted = new Set<number>();
  for (const { storage } of outputs) if (storage.role === 'scratch') wanted.add(storage.index);
  const kept: Node[] = [];
  for (const node of graph.nodes.toReversed()) {
    const makes = Object.values(node.results).some(
      ({ storage }) => storage.role === 'scratch' && wanted.has(storage.index),
    );
    if (!makes) continue;
    kept.push(node);
    for (const tensor of Object.values(node.operands))
      if (tensor?.storage.role === 'scratch') wanted.add(tensor.storage.index);
  }
  return kept.reverse();
}
