import { inspect } from '../inspect.js';
import type { KvType } from '../ops/flash-attention.js';
import { pick } from './options.js';
import { showBytes, table } from './table.js';

export async function inspectCommand(
  path: string | undefined,
  flags: { context?: number; kv?: KvType; json?: boolean; program?: boolean },
): Promise<void> {
  const report = await inspect(path, pick(flags, 'context', 'kv'));
  const { program, ...facts } = report;
  if (flags.json) {
    process.stdout.write(`${JSON.stringify(flags.program ? { ...facts, program: program.print() } : facts)}\n`);
    return;
  }
  const { memory } = report;
  process.stdout.write(
    table([
      ['path', report.path],
      ['format', report.format],
      ['architecture', report.architecture],
      ['layers', `${report.layers.length}: ${runs(report.layers)}`],
      ['parameters', `${(report.parameters / 1e6).toFixed(1)} M`],
      ['vocabulary', String(report.vocab)],
      ['width', String(report.dim)],
      ['trained context', String(report.maxPositions)],
      [
        'tensors',
        Object.entries(report.dtypes)
          .map(([dtype, count]) => `${count} ${dtype}`)
          .join(', '),
      ],
      ['memory for', `${report.context} tokens a sequence`],
      ['  weights', `${showBytes(memory.weights)} (as stored)`],
      ['  activations', showBytes(memory.activations)],
      ['  states', `${showBytes(memory.states)} (${showBytes(memory.drafts)} of them for speculation)`],
      ['  cache', `${showBytes(memory.cache)} (${report.kv})`],
      ['  prefixes', `${showBytes(memory.prefixes)} at most`],
      ['  total', showBytes(memory.total)],
    ]),
  );
  if (flags.program) process.stdout.write(`${program.print()}\n`);
}

/** `3 mamba2 + moe, 1 attention + moe, …`: equal neighbours counted. */
function runs(layers: readonly string[]): string {
  const groups: [string, number][] = [];
  for (const layer of layers) {
    const last = groups.at(-1);
    if (last?.[0] === layer) last[1]++;
    else groups.push([layer, 1]);
  }
  return groups.map(([kind, count]) => `${count} ${kind}`).join(', ');
}
