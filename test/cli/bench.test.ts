// `crosscurrent bench` of models and beside peers. Peers are installed by hand: what needs them says so where they are absent.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { weightBytesAToken } from '../../src/cli/bench-model.js';
import { encodeModel, nodeOf } from '../../src/cli/bench-onnx.js';
import { Runner } from '../../src/cli/bench-runner.js';
import { Graph } from '../../src/graph/graph.js';
import { measureCoreLatency, spread } from '../../src/kernels/measure.js';
import { tinyGguf } from '../support/models.js';
import { transpileSources } from '../support/transpile.js';

const root = fileURLToPath(new URL('../../', import.meta.url));
const run = (...args: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', `${root}src/cli/main.ts`, ...args], { encoding: 'utf8' });

describe('--model', { timeout: 120_000 }, () => {
  it('a table and a file', () => {
    const folder = mkdtempSync(join(tmpdir(), 'crosscurrent-bench-'));
    const file = join(folder, 'result.json');
    const { status, stdout, stderr } = run(
      'bench',
      '--model',
      tinyGguf,
      '--rounds',
      '1',
      '--threads',
      '1',
      '--json',
      file,
    );
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(
      /^\S+\.gguf: granitemoehybrid, 28\.3 M parameters; 18\.\d MB of weights a token; 1 thread, f32 cache, 1 round\n/,
    );
    expect(stdout).toMatch(/^crosscurrent +\d+\.\d \(.*\) +\d+\.\d \(.*\) +\d+ %$/m);
    const { rates, weightBytesAToken: bytes, roofs } = JSON.parse(readFileSync(file, 'utf8'));
    expect(rates).toHaveLength(1);
    const [{ decode, decodeShare }] = rates;
    expect(decodeShare).toBeCloseTo((decode.median * bytes) / Math.max(roofs.before.read, roofs.after.read), 6);
    rmSync(folder, { recursive: true });
  });

  it('goes without kernels, and needs a model that is there', () => {
    expect(run('bench', 'add', '--model', tinyGguf).stderr).toMatch(/none beside --model.*INVALID_ARGUMENT/);
    // told by the process that runs the model
    expect(run('bench', '--model', tinyGguf, '--isa', 'none').stderr).toMatch(/^crosscurrent: isa: .*ARGUMENT\)\n$/);
    expect(run('bench', '--model', '/no/such.gguf').stderr).toMatch(/^crosscurrent: .*\(IO\)\n$/);
  });
});

describe('peers', () => {
  it('one that is not installed is told in a few words', async () => {
    const sources = transpileSources('bench');
    const childUrl = pathToFileURL(join(sources.folder, 'cli/bench-child.js'));
    expect(await Runner.start('no-such-peer' as never, { childUrl })).toBe('not installed');
    sources.remove();
  });

  it('cases that onnxruntime computes otherwise, or not at all, do not map', () => {
    const sizes = { rows: 1, in: 64, out: 8, group: 32 };
    expect(nodeOf({ op: 'int4Matmul', axes: sizes })?.operator).toBe('MatMulNBits');
    expect(nodeOf({ op: 'int4Matmul', axes: { ...sizes, exact: true } })).toBeUndefined();
    expect(nodeOf({ op: 'matmul', axes: { ...sizes, dtype: 'bf16' } })).toBeUndefined();
    expect(nodeOf({ op: 'ssd', axes: {} })).toBeUndefined();
  });

  const peer = `${root}bench/peers/node_modules/onnxruntime-node`;
  const has = existsSync(peer);
  it.skipIf(!has)(
    `its models are read, and a product is right${has ? '' : ' (onnxruntime-node is not installed in bench/peers)'}`,
    async () => {
      const { InferenceSession, Tensor } = createRequire(peer)(peer);
      const node = nodeOf({ op: 'matmul', axes: { rows: 2, in: 5, out: 3, dtype: 'f32' } })!;
      const [x, w, b] = [node.feeds[0]!, node.constants[0]!, node.constants[1]!].map(({ data }) => data) as [
        Float32Array,
        Float32Array,
        Float32Array,
      ];
      const session = await InferenceSession.create(encodeModel(node));
      const { y } = await session.run({ x: new Tensor('float32', x, [2, 5]) });
      for (let row = 0; row < 2; row++)
        for (let out = 0; out < 3; out++) {
          let sum = b[out]!;
          for (let k = 0; k < 5; k++) sum += x[5 * row + k]! * w[5 * out + k]!;
          expect(y.data[3 * row + out]).toBeCloseTo(sum, 5);
        }
      await session.release();
    },
  );
});

it('bytes of weights a token: of experts those chosen, of an embedding a row, all of a tied head', () => {
  const graph = new Graph();
  const weight = (name: string, shape: number[], rows?: [number, number]) =>
    graph.weight({
      name,
      form: 'matrix',
      shape,
      transform: 'none',
      parts: [{ tensor: name, shape: rows ? [10, 4] : shape, ...(rows ? { rows } : {}) }],
    });
  const add = (name: string, operands: object): void =>
    graph.add({ declaration: { name } as never, operands: operands as never, results: {}, attrs: {} });
  add('embedding', { weight: weight('embed', [100, 4]) });
  add('embedding', { weight: weight('tied', [100, 4]) });
  add('linear', { weight: weight('part', [5, 4], [0, 5]) });
  const ids = graph.scratch([{ symbol: 't', times: 1 }, 2], 'i32');
  add('moe', { ids, gate: weight('gate', [8, 3, 4]), up: weight('up', [8, 3, 4]), down: weight('down', [8, 4, 3]) });
  add('linear', { weight: weight('tied', [100, 4]) });
  const stored = new Map(Object.entries({ embed: 1000, tied: 2000, part: 300, gate: 80, up: 80, down: 800 }));
  expect(weightBytesAToken(graph, stored)).toBe(10 + 2000 + 150 + (80 + 80 + 800) / 4);
});

it('core to core: some nanoseconds, or 0 where there is one core', async () => {
  const ns = await measureCoreLatency();
  expect(ns).toBeGreaterThanOrEqual(0);
  expect(ns).toBeLessThan(1e6);
});

it('spread: the median between the middle two, percentiles of what there is', () => {
  expect(spread([4, 1, 3, 2])).toEqual({ median: 2.5, p5: 1, p95: 4, samples: 4 });
  expect(spread([]).median).toBeNaN();
});
