// The examples of docs/kernels.md and README.md run; every kernel is in the docs.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import * as kernels from '../../src/kernels/index.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');
const blocks = (page: string): string[] =>
  [...read(page).matchAll(/```ts\n([\s\S]*?)```/g)]
    .map(([, code]) => code as string)
    .filter((code) => code.includes("'crosscurrent/kernels'"));

const expected: [page: string, outputs: RegExp[]][] = [
  ['docs/kernels.md', [/^384 true\n$/, /^768 64 \d+\n$/, /^512 2\n$/]],
  ['README.md', [/^Float32Array\(4\) \[/]],
];

it.each(expected)('examples of %s', { timeout: 120_000 }, (page, outputs) => {
  const codes = blocks(page);
  expect(codes).toHaveLength(outputs.length);
  const folder = mkdtempSync(join(root, 'build-test-docs-'));
  try {
    codes.forEach((code, i) => {
      const script = join(folder, `example-${i}.mts`);
      writeFileSync(script, code.replace("'crosscurrent/kernels'", "'../src/kernels/index.ts'"));
      const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script], { encoding: 'utf8' });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(stdout).toMatch(outputs[i] as RegExp);
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});

it('every kernel is on a page', () => {
  const pages = read('docs/kernels.md') + read('docs/ops.md');
  for (const [name, value] of Object.entries(kernels))
    if (typeof value === 'function' && /^[a-z]/.test(name) && name !== 'devices')
      expect(pages, name).toMatch(new RegExp(`\\b${name}\\b`));
});
