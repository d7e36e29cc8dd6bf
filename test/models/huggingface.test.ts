import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { load } from '../../src/index.js';
import { encodeSafetensors, saveSafetensors } from '../../src/weights/safetensors.js';
import { ids, randomTensors, small } from './support.js';

const config = { ...small, model_type: 'llama', tie_word_embeddings: false };
const tensors = await randomTensors(config);
let root: string;
let count = 0;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'crosscurrent-hf-'));
});
afterAll(() => rm(root, { recursive: true }));

/** A folder with these texts in files, and the weights. */
async function folderWith(texts: Record<string, string>): Promise<string> {
  const folder = join(root, String(count++));
  await mkdir(folder);
  await saveSafetensors(join(folder, 'model.safetensors'), tensors);
  for (const [name, text] of Object.entries(texts)) await writeFile(join(folder, name), text);
  return folder;
}

describe('a Hugging Face folder', () => {
  it('loads, by its own name or that of its file, and as shards', async () => {
    const folder = await folderWith({ 'config.json': JSON.stringify(config) });
    const sharded = join(root, 'sharded');
    await mkdir(sharded);
    const entries = Object.entries(tensors);
    const half = Math.floor(entries.length / 2);
    const names = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
    const halves = [entries.slice(0, half), entries.slice(half)];
    const weightMap: Record<string, string> = {};
    for (const [i, name] of names.entries()) {
      await saveSafetensors(join(sharded, name), Object.fromEntries(halves[i] ?? []));
      for (const [tensor] of halves[i] ?? []) weightMap[tensor] = name;
    }
    await writeFile(join(sharded, 'model.safetensors.index.json'), JSON.stringify({ weight_map: weightMap }));
    await writeFile(join(sharded, 'config.json'), JSON.stringify(config));

    const logits: Float32Array[] = [];
    for (const source of [{ config, tensors }, folder, join(folder, 'model.safetensors'), sharded]) {
      await using model = await load(source, { context: 64, sequences: 1 });
      logits.push(await model.logits(ids));
    }
    for (const others of logits.slice(1)) expect(others).toEqual(logits[0]);
  });

  it.each<[string, Record<string, string>, string, RegExp]>([
    ['no config', {}, 'IO', /config\.json: cannot be read \(ENOENT\)/],
    ['a config that is no JSON', { 'config.json': '{' }, 'INVALID_FILE', /config\.json: expected JSON/],
    ['a config that is a list', { 'config.json': '[]' }, 'INVALID_FILE', /expected an object, got an array/],
    [
      'a config of megabytes',
      { 'config.json': `{"a": "${'x'.repeat(2 ** 20)}"}` },
      'INVALID_FILE',
      /at most 1048576 bytes/,
    ],
    [
      'quantised weights',
      { 'config.json': JSON.stringify({ ...config, quantization_config: { quant_method: 'gptq', bits: 4 } }) },
      'UNSUPPORTED_FORMAT',
      /float type, got gptq/,
    ],
    [
      'an unknown architecture',
      { 'config.json': JSON.stringify({ ...config, model_type: 'rwkv7' }) },
      'UNSUPPORTED_ARCHITECTURE',
      /expected llama, .*nemotron_h, got rwkv7/,
    ],
  ])('with %s is a typed error', async (_, texts, code, message) => {
    const folder = await folderWith(texts);
    await expect(load(folder)).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('that is not there is a typed error', async () => {
    await expect(load(join(root, 'nowhere'))).rejects.toMatchObject({ code: 'IO' });
  });

  it('stops at a signal', async () => {
    const folder = await folderWith({ 'config.json': JSON.stringify(config) });
    const reason = new Error('enough');
    await expect(load(folder, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe('a model in memory', () => {
  it.each<[string, unknown]>([
    ['nothing in it', {}],
    ['no tensors', { config }],
    ['a number', 7],
    ['a tensor of another length', { config, tensors: { a: { shape: [3], data: new Float32Array(2) } } }],
    ['a tensor of another type', { config, tensors: { a: { shape: [2], data: [1, 2] } } }],
  ])('with %s is a typed error', async (_, source) => {
    await expect(load(source as string)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('saveSafetensors', () => {
  it('writes what encodeSafetensors gives, aligned', async () => {
    const bytes = encodeSafetensors({
      b: { shape: [2, 1], data: Float32Array.of(1, 2) },
      a: { shape: [], data: Float32Array.of(3) },
    });
    const view = new DataView(bytes.buffer);
    const length = Number(view.getBigUint64(0, true));
    expect(length % 8).toBe(0);
    expect(JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)))).toEqual({
      b: { dtype: 'F32', shape: [2, 1], data_offsets: [0, 8] },
      a: { dtype: 'F32', shape: [], data_offsets: [8, 12] },
    });
    expect(new Float32Array(bytes.buffer.slice(8 + length))).toEqual(Float32Array.of(1, 2, 3));
  });

  it('rejects where it cannot write', async () => {
    await expect(saveSafetensors(join(root, 'no', 'such', 'folder'), {})).rejects.toMatchObject({ code: 'IO' });
  });
});
