// The worked example of CONTRIBUTING.md, followed to the letter in a copy of the repository.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const text = readFileSync(join(root, 'CONTRIBUTING.md'), 'utf8');
const section = text.slice(text.indexOf('## A new op'), text.indexOf('## A new model'));
const files = [...section.matchAll(/\*\*`([^`]+)`\*\*[^\n]*\n\n```\w+\n([\s\S]*?)```/g)].map(([, path, code]) => ({
  path: path as string,
  code: code as string,
}));
const commands = /```sh\n([\s\S]*?)```/.exec(section)?.[1]?.trim().split('\n') ?? [];
const has = (command: string): boolean => spawnSync(command, ['--version']).status === 0;
const lacking = ['cmake', 'ninja'].filter((command) => !has(command));

let copy: string;
beforeAll(() => {
  copy = mkdtempSync(join(tmpdir(), 'crosscurrent-contributing-'));
  const parts = [
    'src',
    'native',
    'cmake',
    'scripts',
    'docs',
    'test/native',
    'CMakeLists.txt',
    'package.json',
    'tsconfig.json',
  ];
  for (const part of parts) cpSync(join(root, part), join(copy, part), { recursive: true });
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
});
afterAll(() => rmSync(copy, { recursive: true, force: true }));

it('names four files and four commands', () => {
  expect(files.map(({ path }) => path)).toEqual([
    'src/ops/soft-cap.ts',
    'src/ops/index.ts',
    'native/cpu/soft_cap.cpp',
    'test/native/ops_soft_cap.cpp',
  ]);
  expect(commands).toHaveLength(4);
});

it.skipIf(lacking.length > 0)(
  lacking.length > 0
    ? `is followed: needs ${lacking.join(' and ')}`
    : 'is followed: declared, generated, built, passed',
  { timeout: 600_000 },
  () => {
    for (const { path, code } of files) {
      const full = join(copy, path);
      // only the list of ops is there already
      expect(existsSync(full)).toBe(path === 'src/ops/index.ts');
      writeFileSync(full, path === 'src/ops/index.ts' ? readFileSync(full, 'utf8') + code : code);
    }
    let output = '';
    for (const command of commands) {
      // results of the compiler are shared with the repository's own builds
      const env = { ...process.env, CCACHE_BASEDIR: copy, CCACHE_NOHASHDIR: '1' };
      const { status, stdout, stderr } = spawnSync(command, { cwd: copy, shell: true, encoding: 'utf8', env });
      expect(status, `${command}\n${stdout}\n${stderr}`).toBe(0);
      output = stdout;
    }
    expect(output).toMatch(/^1 passed, 0 failed$/m);
    for (const generated of ['native/ops.gen.h', 'native/cpu/kernels.gen.h', 'src/ops/opcodes.gen.ts', 'docs/ops.md'])
      expect(readFileSync(join(copy, generated), 'utf8'), generated).toContain('soft_cap');
  },
);
