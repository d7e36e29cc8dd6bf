import { CrosscurrentError, mismatch } from '../errors.js';
import type { Operand } from '../ops/define.js';

/** What an axis is taken for where lengths do not tell, from the axes that are known by then; undefined: still unknown. */
export type Free = readonly (readonly [
  axis: string,
  value: (axes: ReadonlyMap<string, number>) => number | undefined,
])[];

export const camelCase = (name: string): string => name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());

const factorsOf = ({ axes }: Operand): string[] => axes.flatMap((axis) => axis.split('*'));

/** Fills `axes` until every operand has the product of its axes as its length. */
export function solveAxes(
  op: string,
  operands: Readonly<Record<string, Operand>>,
  lengths: ReadonlyMap<string, number>,
  axes: Map<string, number>,
  free: Free,
): void {
  const open = new Set(lengths.keys());
  do {
    for (let found = true; found; ) {
      found = false;
      for (const key of open) {
        const before = axes.size;
        if (!solveOne(op, key, factorsOf(operands[key]!), lengths.get(key)!, axes)) continue;
        open.delete(key);
        found = true;
        if (axes.size > before) break; // the first operands of a declaration name the axes
      }
    }
  } while (assume(axes, free));
  const all = new Set(Object.values(operands).flatMap(factorsOf));
  const unknown = [...all].filter((axis) => axis !== '2' && !axes.has(axis)).map(camelCase);
  if (unknown.length > 0)
    throw mismatch(
      'INVALID_ARGUMENT',
      `${op}: shape`,
      `${unknown.join(' or ')}, as lengths alone do not tell`,
      'too few axes',
    );
}

/** Whether the operand is now known in full; throws where it cannot be. */
function solveOne(op: string, key: string, factors: readonly string[], length: number, axes: Map<string, number>) {
  const unknown = factors.filter((axis) => axis !== '2' && !axes.has(axis));
  if (unknown.length > 1) return false;
  const known = factors.reduce((product, axis) => product * (axis === '2' ? 2 : (axes.get(axis) ?? 1)), 1);
  const [axis] = unknown;
  if (axis === undefined ? length !== known : length % known !== 0) {
    const shown = factors
      .filter((name) => axes.has(name))
      .map((name) => `${camelCase(name)} = ${axes.get(name)}`)
      .join(', ');
    const wanted = axis === undefined ? `${known} elements` : `a multiple of ${known} elements`;
    throw mismatch('INVALID_ARGUMENT', `${op}: ${camelCase(key)}`, `${wanted} (${shown})`, `${length}`);
  }
  if (axis !== undefined) axes.set(axis, length / known);
  return true;
}

function assume(axes: Map<string, number>, free: Free): boolean {
  for (const [axis, guess] of free) {
    if (axes.has(axis)) continue;
    const value = guess(axes);
    if (value === undefined) continue;
    axes.set(axis, value);
    return true;
  }
  return false;
}

/** An axis that the caller or a packed weight names. */
export function setAxis(label: string, axes: Map<string, number>, axis: string, value: unknown): void {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1)
    throw mismatch('INVALID_ARGUMENT', label, `${camelCase(axis)} as an integer, 1 or more`, String(value));
  const known = axes.get(axis);
  if (known !== undefined && known !== value)
    throw mismatch('INVALID_ARGUMENT', label, `${camelCase(axis)} = ${known}`, `${value}`);
  axes.set(axis, value);
}

/** The number of elements of an operand, once its axes are known. */
export function elementsOf(op: string, key: string, operand: Operand, axes: ReadonlyMap<string, number>): number {
  let elements = 1;
  for (const axis of factorsOf(operand)) {
    const size = axis === '2' ? 2 : axes.get(axis);
    if (size === undefined) throw new CrosscurrentError('INTERNAL', `${op}: ${key} has an undetermined axis ${axis}`);
    elements *= size;
  }
  if (!Number.isSafeInteger(elements))
    throw mismatch('INVALID_ARGUMENT', `${op}: ${camelCase(key)}`, 'at most 2^53 elements', `${elements}`);
  return elements;
}
