// The example of docs/scheduling.md, run as it stands.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

it('its example runs', { timeout: 120_000 }, () => {
  const [, code = ''] = /```ts\n([\s\S]*?)```/.exec(readFileSync(join(root, 'docs/scheduling.md'), 'utf8')) ?? [];
  const folder = mkdtempSync(join(root, 'build-test-scheduling-'));
  try {
    const script = join(folder, 'example.mts');
    writeFileSync(script, code.replace("from 'crosscurrent'", "from '../src/index.ts'"));
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script], { encoding: 'utf8' });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toBe('[ true, true ]\n');
  } finally {
    rmSync(folder, { recursive: true });
  }
});
