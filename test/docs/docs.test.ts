// What the pages say, held against what there is.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { errorCodes } from '../../src/errors.js';
import { models } from '../../src/models/index.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

describe('error codes', () => {
  const declared = [...errorCodes];
  const native = [.../names\[\] = \{([^}]*)\}/.exec(read('native/error.h'))![1]!.matchAll(/"([A-Z_]+)"/g)].map(
    ([, code]) => code as string,
  );

  it('of native code are the first of those of the package, in the same order as its enum', () => {
    expect(native).toEqual(declared.slice(0, native.length));
    const members = /enum class Code : uint8_t \{([^}]*)\}/.exec(read('native/error.h'))![1]!.match(/\w+/g)!;
    expect(members.map((member) => member.toUpperCase())).toEqual(native);
  });

  it('are all in docs/errors.md, and no others', () => {
    const rows = [...read('docs/errors.md').matchAll(/^\| `([A-Z_]+)` \| (.+) \|$/gm)];
    expect(rows.map(([, code]) => code as string).sort()).toEqual([...declared].sort());
    for (const [, , meaning] of rows) expect(meaning?.length).toBeGreaterThan(10);
  });

  it('are all used', () => {
    const sources = readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).filter(
      (path) => path.endsWith('.ts') && path !== 'errors.ts',
    );
    const all = sources.map((path) => read(join('src', path))).join('\n');
    for (const code of declared.slice(native.length)) expect(all).toContain(`'${code}'`);
  });
});

it('generated files are up to date', { timeout: 60_000 }, () => {
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'scripts/gen.ts', '--check'], {
    cwd: root,
    encoding: 'utf8',
  });
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
});

describe('README', () => {
  const readme = read('README.md');

  it('names the architectures that there are', () => {
    for (const { type } of models) expect(readme).toContain(type);
  });

  it('its example runs', { timeout: 120_000 }, () => {
    const code = /```ts\n([\s\S]*?)```/.exec(readme)![1]!;
    expect(code.trim().split('\n').length).toBeLessThanOrEqual(10);
    const folder = mkdtempSync(join(root, 'build-test-readme-'));
    try {
      const script = join(folder, 'example.mts');
      writeFileSync(script, code.replace("from 'crosscurrent'", "from '../src/index.ts'"));
      const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script], { encoding: 'utf8' });
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
      expect(stdout).toMatch(/^The capital of France is Paris\.\n.+ \(\d+ tokens\/s\)\n$/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

it('links of the pages lead somewhere', () => {
  const docs = readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md'));
  const pages = ['README.md', 'CONTRIBUTING.md', ...docs.map((name) => `docs/${name}`)];
  // code is not prose: a lambda looks like a link
  for (const page of pages)
    for (const [, target] of read(page)
      .replace(/```[\s\S]*?```/g, '')
      .matchAll(/\]\((?!https?:|#)([^)#]+)[^)]*\)/g))
      expect(existsSync(join(root, dirname(page), target as string)), `${page}: ${target}`).toBe(true);
});
