// Files that are damaged, cut, changed or of another kind: a typed error, or the model as it was.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { appendFile, copyFile, cp, mkdir, mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ErrorCode, inspect, load, type Model } from '../../src/index.js';
import { encodeSafetensors } from '../../src/weights/safetensors.js';
import { encodeGguf } from '../models/gguf-file.js';
import { tinyGguf } from '../support/models.js';
import { hybrid, hybridConfig, writeHybrid } from './small-models.js';
import { answer, capital, errorOf, loadTiny } from './support.js';

const quant = fileURLToPath(new URL('../../../shared/quant/', import.meta.url));
const noQuant = existsSync(quant) ? undefined : `${quant} is not there (see CONTRIBUTING.md, "Test data")`;

let root: string;
/** Keeps the text worker alive, which takes longer to start than these files to refuse. */
let keeper: Model;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'crosscurrent-files-'));
  keeper = await loadTiny({ sequences: 1, context: 64 });
});
afterAll(async () => {
  await keeper.dispose();
  await rm(root, { recursive: true });
});

const small = { context: 64, sequences: 1 };

describe.skipIf(noQuant)(noQuant ?? 'the broken files of the quantisation fixtures', () => {
  const cases = noQuant
    ? []
    : (JSON.parse(readFileSync(`${quant}bad/bad.json`, 'utf8')) as { file: string; error_should_name: string[] }[]);

  it('are all here', () => {
    const listed = cases.map(({ file }) => file.replace('bad/', '')).sort();
    expect(readdirSync(`${quant}bad`).filter((name) => name !== 'bad.json')).toEqual(listed);
  });

  it.each(cases.filter(({ file }) => file.endsWith('.gguf')))('$file', async ({ file, error_should_name }) => {
    const error = await errorOf(() => load(quant + file, small));
    expect(['INVALID_FILE', 'UNSUPPORTED_FORMAT']).toContain(error.code);
    expect(error.expected).toMatch(/./);
    expect(error.got).toMatch(/./);
    // the tensor or key that is at fault
    const [named] = error_should_name as [string];
    if (/[._]/.test(named)) expect(error.message).toContain(named);
    expect((await errorOf(() => inspect(quant + file))).code).toBe(error.code);
  });

  it.each(cases.filter(({ file }) => !file.endsWith('.gguf')))('$file', async ({ file }) => {
    const error = await errorOf(() => load(quant + file, small));
    expect(error).toMatchObject({ code: 'UNSUPPORTED_FORMAT', expected: 'weights of a float type' });
  });

  // their configs name a quantisation, which is refused first: without it, what is wrong with the container shows
  const containers = cases.filter(({ file }) => /\/(st|index|shard)-/.test(file));
  it.each(containers)('$file, its config as of float weights', async ({ file }) => {
    const folder = join(root, file.replace('/', '-'));
    await cp(quant + file, folder, { recursive: true });
    const config = JSON.parse(readFileSync(`${quant}${file}/config.json`, 'utf8'));
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, quantization_config: undefined }));
    const error = await errorOf(() => load(folder, small));
    expect(['INVALID_FILE', 'UNSUPPORTED_FORMAT', 'IO']).toContain(error.code);
    expect(error.message).toContain(folder);
  });
});

describe.skipIf(noQuant)(noQuant ?? 'quantisations that are not supported yet', () => {
  const names = noQuant ? [] : readdirSync(quant).filter((name) => /^(awq|bnb|ct|fp8|gptq|mlx|mxfp4)-/.test(name));
  it.each(names)('%s', async (name) => {
    const error = await errorOf(() => load(quant + name, small));
    expect(error).toMatchObject({ code: 'UNSUPPORTED_FORMAT', operand: expect.stringContaining('config.json') });
  });

  it.each(['gguf-mxfp4', 'gguf-q2k', 'gguf-q3k'])('%s', async (name) => {
    const error = await errorOf(() => load(`${quant}${name}/model.gguf`, small));
    expect(error).toMatchObject({ code: 'UNSUPPORTED_FORMAT', expected: expect.stringContaining('Q4_K') });
  });
});

describe('paths', () => {
  it.each<[string, () => string | Promise<string>, ErrorCode]>([
    ['nothing there', () => join(root, 'nowhere.gguf'), 'IO'],
    ['an empty one', () => '', 'IO'],
    ['one with a zero byte', () => 'a\0b.gguf', 'IO'],
    ['an empty folder', () => mkdtemp(join(root, 'empty-')), 'IO'],
    ['a device', () => '/dev/null', 'INVALID_FILE'],
    ['through a file', () => join(tinyGguf, 'model.gguf'), 'IO'],
    ['a text', () => fileURLToPath(new URL('../../README.md', import.meta.url)), 'UNSUPPORTED_FORMAT'],
  ])('%s', async (_, path, code) => {
    const error = await errorOf(async () => load(await path(), small));
    expect(['IO', 'INVALID_FILE', 'INVALID_ARGUMENT', 'UNSUPPORTED_FORMAT']).toContain(error.code);
    expect(error.code).toBe(code);
    expect(error.message).not.toBe('');
  });
});

it('an unknown architecture of a GGUF file: names those there are', async () => {
  const path = join(root, 'unknown.gguf');
  await writeFile(
    path,
    encodeGguf({ 'general.architecture': 'rwkv7' }, { a: { shape: [32], data: new Float32Array(32) } }),
  );
  expect(await errorOf(() => load(path))).toMatchObject({
    code: 'UNSUPPORTED_ARCHITECTURE',
    expected: 'llama, granitehybrid',
    got: 'rwkv7',
  });
});

describe('a file cut short', () => {
  it('of GGUF, anywhere', async () => {
    const path = join(root, 'cut.gguf');
    await copyFile(tinyGguf, path);
    const { size } = await import('node:fs').then(({ statSync }) => statSync(tinyGguf));
    const headers = [0, 1, 3, 4, 7, 8, 23, 24, 100, 1000, 10_000, 100_000, 1_000_000, 2_000_000];
    const lengths = [...headers, ...[0.2, 0.5, 0.9].map((part) => Math.floor(part * size)), size - 4096, size - 1];
    for (const length of lengths.sort((a, b) => b - a)) {
      await truncate(path, length);
      expect((await errorOf(() => load(path, small))).code, `${length} bytes`).toBe('INVALID_FILE');
    }
  });

  it('of safetensors, anywhere', async () => {
    const folder = await writeHybrid(join(root, 'cut'), { tokenizer: false });
    const path = join(folder, 'model.safetensors');
    const bytes = encodeSafetensors(hybrid.tensors);
    const lengths = [0, 1, 7, 8, 9, 100, 1000, 4000, bytes.length >> 1, bytes.length - 4, bytes.length - 1];
    for (const length of lengths) {
      await writeFile(path, bytes.subarray(0, length));
      expect((await errorOf(() => load(folder, small))).code, `${length} bytes`).toBe('INVALID_FILE');
    }
    for (const length of [0, 1, 20, 100]) {
      await writeFile(join(folder, 'config.json'), JSON.stringify(hybridConfig).slice(0, length));
      expect((await errorOf(() => load(folder, small))).code, `config of ${length} bytes`).toBe('INVALID_FILE');
    }
  });
});

describe('a file that changes while it is loaded: the model as it was, or a typed error', () => {
  const right: ErrorCode[] = ['FILE_CHANGED', 'INVALID_FILE', 'IO'];
  it.each<[string, (path: string) => Promise<unknown>]>([
    ['cut to nothing', (path) => truncate(path, 0)],
    ['cut in half', (path) => truncate(path, 12_000_000)],
    ['grown', (path) => appendFile(path, new Uint8Array(4096))],
    ['removed', (path) => rm(path)],
  ])('%s', async (name, change) => {
    const outcomes = [];
    for (const ms of [0, 2, 5, 10, 20, 60]) {
      const path = join(root, `changing-${name.replaceAll(' ', '-')}-${ms}.gguf`);
      await copyFile(tinyGguf, path);
      const loading = load(path, small);
      loading.catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, ms));
      await change(path);
      const outcome = await loading.catch((error) => error.code as ErrorCode);
      outcomes.push(typeof outcome === 'string' ? outcome : 'loaded');
      if (typeof outcome === 'string') expect(right, `after ${ms} ms`).toContain(outcome);
      else {
        expect((await outcome.complete(capital, { maxTokens: 8 })).text).toBe(answer);
        await outcome.dispose();
      }
      await rm(path, { force: true });
    }
    expect(outcomes).toHaveLength(6);
  });
});

it('after a load, the file is no longer needed', async () => {
  const folder = await mkdtemp(join(root, 'gone-'));
  const path = join(folder, 'tiny.gguf');
  await mkdir(folder, { recursive: true });
  await copyFile(tinyGguf, path);
  await using model = await load(path, small);
  await truncate(path, 0);
  expect((await model.complete(capital, { maxTokens: 8 })).text).toBe(answer);
});
