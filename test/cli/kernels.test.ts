// `crosscurrent check` and `crosscurrent bench`.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));
const run = (...args: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', main, ...args], { encoding: 'utf8' });

it('check: a table, or JSON, of errors and rates', { timeout: 60_000 }, () => {
  const shown = run('check', 'add', 'rmsNorm');
  expect(shown.stderr).toBe('');
  expect(shown.status).toBe(0);
  expect(shown.stdout).toMatch(/^kernel +level +cases +error/);
  expect(shown.stdout).toMatch(/^add +v2 +2 +\d\.\de-\d+ +1e-6 +ok/m);
  expect(shown.stdout).toMatch(/\d+ passed, 0 failed\n$/);
  const { device, passed, rows } = JSON.parse(run('check', 'add', '--json').stdout);
  expect(passed).toBe(true);
  expect(rows.map(({ isa }: { isa: string }) => isa)).toEqual(device.isas);
});

it('bench: a table and a file', { timeout: 60_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'crosscurrent-bench-'));
  const file = join(folder, 'result.json');
  const { status, stdout, stderr } = run('bench', 'sample', '--seconds', '0.05', '--threads', '1', '--json', file);
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  expect(stdout).toMatch(/^kernel +case +median µs/);
  expect(stdout).toMatch(/^roofs: read \d/m);
  const { rows, roofs } = JSON.parse(readFileSync(file, 'utf8'));
  expect(rows[0].p5Us).toBeLessThanOrEqual(rows[0].medianUs);
  expect(roofs.before.f32).toBeGreaterThan(1e8);
  rmSync(folder, { recursive: true });
});

it('another name is refused', () => {
  for (const command of ['check', 'bench']) {
    const { status, stderr } = run(command, 'nothing');
    expect(status).toBe(1);
    expect(stderr).toMatch(/one of .*rmsNorm.*INVALID_ARGUMENT/);
  }
});
