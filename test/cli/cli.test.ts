// The command line as a user runs it: what it prints where, and its exit codes.
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { version } from '../../src/index.js';
import { tinyGguf } from '../support/models.js';
import { transpileSources } from '../support/transpile.js';

const capital = 'What is the capital of France?';
const answer = 'The capital of France is Paris.';

let sources: ReturnType<typeof transpileSources>;
beforeAll(() => {
  sources = transpileSources('cli');
});
afterAll(() => sources.remove());

interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
}

function start(args: readonly string[], input?: string): Running {
  const child = spawn(process.execPath, [join(sources.folder, 'cli/main.js'), ...args]);
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    stderr += text;
  });
  child.stdin.on('error', () => {}); // a command that reads nothing may have ended
  child.stdin.end(input);
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, stdout, stderr }));
  });
  return { child, ended };
}

const run = (args: readonly string[], input?: string): Promise<Ended> => start(args, input).ended;

describe('generate', { timeout: 60_000 }, () => {
  it('says Paris, and no more than that', async () => {
    const { code, stdout, stderr } = await run(['generate', capital, '--temperature', '0', '--max-tokens', '32']);
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: `${answer}\n`, stderr: '' });
  });

  it('reads a prompt from a pipe', async () => {
    const { code, stdout } = await run(['generate', '--max-tokens', '4'], `${capital}\n`);
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'The capital of France\n' });
  });

  it('--json prints one object', async () => {
    const { code, stdout, stderr } = await run(['generate', capital, '--json', '--max-tokens', '5', '--seed', '9']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const result = JSON.parse(stdout);
    expect(Object.keys(result)).toEqual(['text', 'ids', 'promptIds', 'stats']);
    expect(result).toMatchObject({ text: 'The capital of France is', stats: { tokens: 5, seed: '9' } });
    expect(result.ids).toHaveLength(5);
    expect(result.promptIds).toHaveLength(result.stats.promptTokens);
  });

  it('--raw and every sampling flag', async () => {
    const flags = ['--temperature', '0.9', '--top-k', '50', '--top-p', '0.9', '--min-p', '0.01', '--seed', '3'];
    const more = ['--repetition-penalty', '1.1', '--threads', '1', '--context', '256', '--activations', 'exact'];
    const args = [
      'generate',
      'Once upon a time',
      '--raw',
      '--json',
      '--max-tokens',
      '6',
      '-m',
      tinyGguf,
      ...flags,
      ...more,
    ];
    const [one, two] = [await run(args), await run(args)].map(({ stdout }) => JSON.parse(stdout));
    expect(one.text).toBe(two.text);
    expect(one.promptIds.length).toBeLessThan(8); // no template around it
    expect(one.ids).toHaveLength(6);
  });

  it('Ctrl-C ends it with the text so far, exit code 130', async () => {
    // long enough never to end by itself in time
    const { child, ended } = start([
      'generate',
      'List the numbers from one to ten thousand.',
      '--context',
      '8192',
      '--raw',
    ]);
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    child.kill('SIGINT');
    const { code, stdout, stderr } = await ended;
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    expect(stdout.length).toBeGreaterThan(1);
    expect(stdout.endsWith('\n')).toBe(true);
  });

  it('Ctrl-C under --json still prints one object', async () => {
    const { child, ended } = start([
      'generate',
      'Count.',
      '--json',
      '--raw',
      '--temperature',
      '1',
      '--context',
      '8192',
    ]);
    setTimeout(() => child.kill('SIGINT'), 2500);
    const { code, stdout } = await ended;
    // a short answer may have come before
    expect([0, 130]).toContain(code);
    if (stdout !== '') expect(Object.keys(JSON.parse(stdout))).toEqual(['text', 'ids', 'promptIds', 'stats']);
  });

  it('a reader that goes away is no error', async () => {
    const { child, ended } = start(['generate', 'Once upon a time', '--raw', '--max-tokens', '200']);
    child.stdout?.once('data', () => child.stdout?.destroy());
    expect(await ended).toMatchObject({ code: 0, stderr: '' });
  });
});

describe('what is wrong: one line on the error stream, exit code 1', { timeout: 60_000 }, () => {
  it.each<[string, string[], RegExp]>([
    ['no prompt', ['generate'], /^crosscurrent: prompt: expected some text.* \(EMPTY_PROMPT\)\n$/],
    [
      'a temperature that is none',
      ['generate', 'Hi', '--temperature', '-1'],
      /^crosscurrent: temperature: .*INVALID_ARGUMENT\)\n$/,
    ],
    ['no such file', ['generate', 'Hi', '-m', '/no/such.gguf'], /^crosscurrent: \/no\/such\.gguf: .*\(IO\)\n$/],
    ['no model', ['inspect', '/'], /^crosscurrent: .*config\.json.*\(IO\)\n$/],
    ['too much context', ['generate', 'Hi', '--context', '900000000'], /\(OUT_OF_MEMORY\)\n$/],
    [
      'a number that is none',
      ['generate', 'Hi', '--top-p', 'x'],
      /^error: option '--top-p <x>' argument 'x' is invalid/,
    ],
    ['a fraction of a token', ['generate', 'Hi', '-n', '1.5'], /Not a whole number/],
    ['no such flag', ['generate', 'Hi', '--bogus'], /^error: unknown option '--bogus'/],
    ['no such command', ['frobnicate'], /^error: unknown command 'frobnicate'/],
    ['no such mode', ['generate', 'Hi', '--activations', 'wrong'], /Allowed choices are fast, exact/],
  ])('%s', async (_, args, message) => {
    const { code, stdout, stderr } = await run(args, '');
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).not.toContain('    at ');
  });
});

describe('inspect', { timeout: 60_000 }, () => {
  it('a table', async () => {
    const { code, stdout, stderr } = await run(['inspect', tinyGguf, '--context', '8192']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const text of ['granitemoehybrid', '28.3 M', '84 q4_1', '8192 tokens', 'mamba2 + moe', 'cache', 'total'])
      expect(stdout).toContain(text);
  });

  it('--json, --program', async () => {
    const { stdout } = await run(['inspect', '--json', '--program']);
    const report = JSON.parse(stdout);
    expect(report).toMatchObject({ architecture: 'granitemoehybrid', context: 4096, vocab: 49152 });
    expect(report.memory.total).toBeGreaterThan(20e6);
    expect(report.program).toContain('= ssd(');
    expect((await run(['inspect', '--program'])).stdout).toContain('= flash_attention(');
  });
});

describe('the rest', { timeout: 60_000 }, () => {
  it('devices', async () => {
    const { code, stdout } = await run(['devices']);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^kind +cpu\n/);
    const [cpu] = JSON.parse((await run(['devices', '--json'])).stdout);
    expect(cpu).toMatchObject({ kind: 'cpu', isa: expect.any(String) });
  });

  it('chat: a line, an answer', async () => {
    const lines = `${capital}\n\nAnd of Germany?\n`;
    const { code, stdout, stderr } = await run(['chat', '--max-tokens', '12', '--temperature', '0'], lines);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const [first, second, ...rest] = stdout.split('\n');
    expect(first).toBe(answer);
    expect(second).not.toBe('');
    expect(rest).toEqual(['']);
  });

  it('--version and --help', async () => {
    expect(await run(['--version'])).toMatchObject({ code: 0, stdout: `${version}\n` });
    for (const command of [[], ['generate'], ['chat'], ['inspect'], ['devices']]) {
      const { code, stdout } = await run([...command, '--help']);
      expect(code).toBe(0);
      expect(stdout).toContain(`Usage: crosscurrent${command[0] ? ` ${command[0]}` : ''}`);
    }
  });
});
