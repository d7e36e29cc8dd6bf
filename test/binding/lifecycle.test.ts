import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const script = fileURLToPath(new URL('./scenarios.ts', import.meta.url));

interface Ended {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

function run(scenario: string): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', script, scenario], { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
    child.on('error', reject);
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

// A slow step takes ten seconds or more: a scenario that waited for one would not end in time.
describe('a process ends cleanly', { timeout: 60_000 }, () => {
  it.each([
    ['idle', 0, 'idle\n'],
    ['pending', 0, '64 logits\n'],
    ['dropped handles', 0, 'flat\n'],
    ['exit mid-step', 7, ''],
    ['exit with a queue', 7, ''],
    ['exit while loading', 7, ''],
    ['six workers', 0, '1 result\n'],
    ['terminate mid-step', 0, '192 logits\n'],
    ['workers that exit mid-step', 0, '3,3,3\n'],
    ['worker that throws mid-step', 0, 'thrown in a worker\n'],
    ['workers only', 0, '192 logits\n'],
  ])('%s', async (scenario, code, stdout) => {
    expect(await run(scenario)).toEqual({ code, signal: null, stdout, stderr: '' });
  });

  it('throw mid-step', async () => {
    const { code, signal, stderr } = await run('throw mid-step');
    expect({ code, signal }).toEqual({ code: 1, signal: null });
    expect(stderr.match(/^Error: thrown on purpose$/gm)).toHaveLength(1);
  });
});
