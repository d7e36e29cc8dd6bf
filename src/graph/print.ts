import { showDim } from '../ops/define.js';
import type { Bounds } from './compile.js';
import type { Graph, Node } from './graph.js';
import type { ArenaPlan } from './plan.js';
import type { Tensor } from './tensor.js';

/** The program as text: a header, then one line an op with its operands' places and shapes. */
export function printProgram(graph: Graph, nodes: readonly Node[], bounds: Bounds, plan: ArenaPlan): string {
  const labels = new Map([...graph.labels].map(([label, tensor]) => [tensor.id, label]));
  const place = ({ storage, offset }: Tensor): string => {
    const column = offset > 0 ? `+${offset}` : '';
    if (storage.role === 'weight') return graph.weights[storage.index]?.name ?? '?';
    if (storage.role === 'state') return graph.states[storage.index]?.name ?? '?';
    if (storage.role === 'input') return `$${storage.name}`;
    return `@${plan.offsets[storage.index]}${column}`;
  };
  const show = (tensor: Tensor): string =>
    `${place(tensor)}${tensor.shape.length > 0 ? `[${tensor.shape.map(showDim).join(', ')}]` : ''}`;
  const lines = nodes.map((node, i) => {
    const { name, inputs, outputs, attrs } = node.declaration;
    const results = Object.keys(outputs).map((key) => `${key}: ${show(node.results[key] as Tensor)}`);
    const operands = Object.keys(inputs).flatMap((key) =>
      node.operands[key] ? [`${key}: ${show(node.operands[key] as Tensor)}`] : [],
    );
    const values = Object.entries(attrs).map(([key, type]) => {
      const value = node.attrs[key] as number;
      return `${key}=${typeof type === 'object' ? type[value] : type === 'bool' ? value === 1 : Number(value.toPrecision(6))}`;
    });
    const label = Object.values(node.results).flatMap((tensor) => labels.get(tensor.id) ?? []);
    const comment = label.length > 0 ? `  ; ${label.join(', ')}` : '';
    return `${String(i).padStart(4)}  ${results.join(', ')} = ${name}(${[...operands, ...values].join(', ')})${comment}`;
  });
  const head = `program: ${nodes.length} ops, ${graph.weights.length} weights, ${graph.states.length} states, arena ${plan.bytes} bytes, t <= ${bounds.t}, seqs <= ${bounds.seqs}, rows <= ${bounds.rows}`;
  return [head, ...lines].join('\n');
}
