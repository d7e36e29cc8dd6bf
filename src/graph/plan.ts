import { turn } from '../turn.js';
import type { Bounds } from './compile.js';
import type { Graph, Node } from './graph.js';
import type { Tensor } from './tensor.js';

export interface ArenaPlan {
  /** Byte offset of each scratch storage; 0 for those no kept node uses. */
  readonly offsets: readonly number[];
  readonly sizes: readonly number[];
  readonly bytes: number;
}

/** Each looks at all placed before it. */
const placedATurn = 16;

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;

/**
 * Places every intermediate in one arena at its largest size. Two share bytes when their lifetimes (first to last node that
 * touches them) do not overlap: largest first, each at the lowest offset free over its lifetime.
 */
export async function planArena(
  graph: Graph,
  nodes: readonly Node[],
  outputs: readonly Tensor[],
  bounds: Bounds,
  keepAll: boolean,
): Promise<ArenaPlan> {
  const sizes = new Array<number>(graph.scratchCount).fill(0);
  const first = new Array<number>(graph.scratchCount).fill(-1);
  const last = new Array<number>(graph.scratchCount).fill(-1);
  const touch = (tensor: Tensor | undefined, at: number): void => {
    if (tensor?.storage.role !== 'scratch') return;
    const { index } = tensor.storage;
    if ((first[index] as number) < 0) first[index] = at;
    last[index] = at;
  };
  nodes.forEach((node, at) => {
    for (const tensor of Object.values(node.operands)) touch(tensor, at);
    for (const tensor of Object.values(node.results)) {
      touch(tensor, at);
      const { storage, shape } = tensor;
      const elements = shape.reduce<number>(
        (n, dim) => n * (typeof dim === 'number' ? dim : dim.times * bounds[dim.symbol]),
        1,
      );
      if (storage.role === 'scratch') sizes[storage.index] = align(elements * 4);
    }
  });
  for (const tensor of outputs) touch(tensor, nodes.length);
  if (keepAll) {
    first.fill(0);
    last.fill(nodes.length);
  }

  await turn();
  const offsets = new Array<number>(graph.scratchCount).fill(0);
  const order = sizes.map((_, index) => index).filter((index) => (sizes[index] as number) > 0);
  order.sort((a, b) => (sizes[b] as number) - (sizes[a] as number) || a - b);
  const placed: number[] = []; // by offset
  let bytes = 0;
  for (const [count, index] of order.entries()) {
    if (count % placedATurn === placedATurn - 1) await turn();
    const size = sizes[index] as number;
    let offset = 0;
    for (const other of placed) {
      const overlaps =
        (first[other] as number) <= (last[index] as number) && (first[index] as number) <= (last[other] as number);
      if (!overlaps) continue;
      if ((offsets[other] as number) - offset >= size) break;
      offset = Math.max(offset, (offsets[other] as number) + (sizes[other] as number));
    }
    offsets[index] = offset;
    const after = placed.findIndex((other) => (offsets[other] as number) > offset);
    placed.splice(after < 0 ? placed.length : after, 0, index);
    bytes = Math.max(bytes, offset + size);
  }
  return { offsets, sizes, bytes };
}
