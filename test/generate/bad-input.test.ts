// What callers can get wrong: a typed error that says what was expected and what was got, and the model goes on.
import { spawnSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type ErrorCode, type LoadOptions, load, type Model, type Prompt } from '../../src/index.js';
import { tinyGguf } from '../support/models.js';
import { hybrid, smallVocab, writeHybrid } from './small-models.js';
import { answer, capital, errorOf, loadTiny, someIds } from './support.js';

let model: Model;
let root: string;
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'crosscurrent-bad-'));
  model = await loadTiny({ sequences: 2 });
});
afterAll(async () => {
  await model.dispose();
  await rm(root, { recursive: true });
});

const long = 'again and '.repeat(300);
const cyclic: Record<string, unknown> = { role: 'user' };
cyclic.content = cyclic;

describe('prompts', () => {
  it.each<[string, unknown, ErrorCode, RegExp]>([
    ['empty text', '', 'EMPTY_PROMPT', /expected some text/],
    ['no messages', [], 'EMPTY_PROMPT', /at least one message/],
    ['no ids', new Int32Array(0), 'EMPTY_PROMPT', /at least one token/],
    ['a negative id', Int32Array.of(5, -1), 'TOKEN_OUT_OF_RANGE', /ids\[1\]: expected 0\.\.49151, got -1/],
    ['an id past the vocabulary', Int32Array.of(49152), 'TOKEN_OUT_OF_RANGE', /got 49152/],
    ['as many ids as the context', someIds(512), 'CONTEXT_OVERFLOW', /fewer than 512 tokens.*got 512/],
    ['more text than the context', long, 'CONTEXT_OVERFLOW', /fewer than 512 tokens/],
    ['nothing', undefined, 'INVALID_ARGUMENT', /a string, messages or an Int32Array/],
    ['null', null, 'INVALID_ARGUMENT', /prompt/],
    ['a number', 7, 'INVALID_ARGUMENT', /prompt.*got number/],
    ['an object', { role: 'user', content: 'Hi' }, 'INVALID_ARGUMENT', /prompt/],
    ['ids of another type', Float64Array.of(1, 2), 'INVALID_ARGUMENT', /prompt/],
    ['messages that are numbers', [1, 2], 'TEMPLATE_ERROR', /template|role/],
    ['messages with a function', [{ role: 'user', content: () => {} }], 'INVALID_ARGUMENT', /plain data/],
  ])('%s', async (_, prompt, code, message) => {
    for (const call of [
      () => model.complete(prompt as Prompt),
      async () => {
        for await (const _piece of model.generate(prompt as Prompt)) throw new Error('a piece came');
      },
    ])
      expect(await errorOf(call)).toMatchObject({ code, message: expect.stringMatching(message) });
  });

  it('messages that hold themselves', async () => {
    const outcome = await model.complete([cyclic as { role: string }], { maxTokens: 1 }).catch((error) => error.code);
    expect(['TEMPLATE_ERROR', 'INVALID_ARGUMENT', 'CONTEXT_OVERFLOW']).toContain(outcome);
  });

  it('the model goes on after all of them', async () => {
    expect((await model.complete(capital, { maxTokens: 16 })).text).toBe(answer);
  });
});

describe('ids of logits, feed and detokenize', () => {
  it.each<[string, ArrayLike<number>, ErrorCode]>([
    ['a negative one', [-1], 'TOKEN_OUT_OF_RANGE'],
    ['one past the vocabulary', [3, 49152], 'TOKEN_OUT_OF_RANGE'],
    ['a fraction', [1.5], 'TOKEN_OUT_OF_RANGE'],
    ['NaN', [Number.NaN], 'TOKEN_OUT_OF_RANGE'],
    ['text', ['1'] as unknown as number[], 'TOKEN_OUT_OF_RANGE'],
    ['more than the context', someIds(513), 'CONTEXT_OVERFLOW'],
  ])('%s', async (_, ids, code) => {
    expect((await errorOf(() => model.logits(ids))).code).toBe(code);
    await using sequence = await model.sequence();
    await sequence.feed([1, 2]);
    expect((await errorOf(() => sequence.feed(ids))).code).toBe(code);
    // nothing of it was taken
    expect([...sequence.ids]).toEqual([1, 2]);
    if (code === 'TOKEN_OUT_OF_RANGE') expect((await errorOf(() => model.detokenize(ids))).code).toBe(code);
  });

  it('none', async () => {
    expect((await errorOf(() => model.logits([]))).code).toBe('EMPTY_PROMPT');
    expect(await model.detokenize([])).toBe('');
    await using sequence = await model.sequence();
    await sequence.feed([]);
    expect((await errorOf(() => sequence.generate().completion())).code).toBe('EMPTY_PROMPT');
    await sequence.feed([1]);
    expect(sequence.length).toBe(1);
  });

  it('text that is none', async () => {
    for (const text of [undefined, null, 7, {}])
      expect((await errorOf(() => model.tokenize(text as string))).code).toBe('INVALID_ARGUMENT');
  });

  it('saved bytes that are none', async () => {
    for (const bytes of [undefined, 'x', new Int32Array(8)])
      expect((await errorOf(() => model.restore(bytes as unknown as Uint8Array))).code).toBe('INVALID_ARGUMENT');
    for (const bytes of [new Uint8Array(0), new Uint8Array(19), new Uint8Array(4096)])
      expect((await errorOf(() => model.restore(bytes))).code).toBe('INVALID_STATE');
  });
});

describe('options of load', () => {
  it.each<[string, unknown, ErrorCode]>([
    ['context', 0, 'INVALID_ARGUMENT'],
    ['context', -5, 'INVALID_ARGUMENT'],
    ['context', Number.NaN, 'INVALID_ARGUMENT'],
    ['context', 1.5, 'INVALID_ARGUMENT'],
    ['context', '4096', 'INVALID_ARGUMENT'],
    ['context', Number.POSITIVE_INFINITY, 'INVALID_ARGUMENT'],
    ['sequences', 0, 'INVALID_ARGUMENT'],
    ['sequences', Number.NaN, 'INVALID_ARGUMENT'],
    ['cacheTokens', Number.NaN, 'INVALID_ARGUMENT'],
    ['threads', 0, 'INVALID_ARGUMENT'],
    ['threads', Number.NaN, 'INVALID_ARGUMENT'],
    ['threads', 2.5, 'INVALID_ARGUMENT'],
    ['device', 'cuda', 'DEVICE_UNAVAILABLE'],
    ['activations', 'exactly', 'INVALID_ARGUMENT'],
  ])('%s: %s', async (key, value, code) => {
    const error = await errorOf(() => load(tinyGguf, { [key]: value } as LoadOptions));
    expect(error).toMatchObject({ code, operand: key, got: String(value) });
  });

  it.each<[string, LoadOptions]>([
    ['context', { context: 1e9 }],
    ['the largest context', { context: 2 ** 31 - 1 }],
    ['a context past 32 bits', { context: 2 ** 40 }],
    ['cacheTokens', { cacheTokens: 1e10 }],
    ['cacheTokens past all numbers', { cacheTokens: Number.MAX_SAFE_INTEGER }],
    ['sequences', { sequences: 1e6 }],
    ['sequences past 32 bits', { sequences: 2 ** 33 }],
  ])('more memory than there is is refused before it is taken: %s', async (_, options) => {
    const before = process.memoryUsage().rss;
    const error = await errorOf(() => load(tinyGguf, options));
    expect(error).toMatchObject({
      code: 'OUT_OF_MEMORY',
      expected: expect.stringMatching(/bytes/),
      got: expect.stringMatching(/\d/),
    });
    expect(process.memoryUsage().rss - before).toBeLessThan(150e6);
  });

  it('a request that the cache can never hold', async () => {
    // the context is 512 tokens in a cache of as many; the other sequence keeps 300 of them
    await using small = await load(hybrid, { context: 512, sequences: 2, cacheTokens: 512 });
    await using held = await small.sequence();
    await held.feed(Int32Array.from({ length: 500 }, (_, i) => i % smallVocab));
    const error = await errorOf(() => small.logits(Int32Array.from({ length: 500 }, (_, i) => i % smallVocab)));
    expect(error.code).toBe('OUT_OF_MEMORY');
  });
});

describe('a model without', () => {
  const messages = [{ role: 'user', content: 'Hi' }];

  it('a tokenizer: ids work, text is a typed error', async () => {
    for (const source of [hybrid, await writeHybrid(join(root, 'no-tokenizer'), { tokenizer: false })]) {
      const bare = await load(source, { context: 64, sequences: 1 });
      expect(bare.tokenizer).toBeUndefined();
      const { text, ids } = await bare.complete(Int32Array.of(1, 2, 3), { maxTokens: 4 });
      expect(text).toBe('');
      expect(ids).toHaveLength(4);
      const calls = [
        () => bare.complete('Hi'),
        () => bare.complete(messages),
        async () => bare.tokenize('Hi'),
        async () => bare.detokenize([1]),
      ];
      for (const call of calls) expect((await errorOf(call)).code).toBe('MISSING_TOKENIZER');
      await bare.dispose();
    }
  });

  it('a template: text is continued as it is, messages are a typed error', async () => {
    await using plain = await load(await writeHybrid(join(root, 'no-template')), { context: 64, sequences: 1 });
    const { promptIds } = await plain.complete('Hi', { maxTokens: 2 });
    expect(promptIds).toEqual([72, 105]);
    expect((await errorOf(() => plain.complete(messages))).code).toBe('MISSING_TEMPLATE');
  });

  it.each<[string, string, RegExp]>([
    ['that raises', "{{ raise_exception('only questions, please') }}", /only questions, please/],
    ['that is not closed', '{% if messages %}', /./],
    ['that calls what is not there', '{{ messages[0].nothing.at.all() }}', /./],
  ])('a template %s', async (name, template, message) => {
    const folder = await writeHybrid(join(root, name.replaceAll(' ', '-')), { template });
    await using broken = await load(folder, { context: 64, sequences: 1 });
    for (const prompt of ['Hi', messages])
      expect(await errorOf(() => broken.complete(prompt))).toMatchObject({
        code: 'TEMPLATE_ERROR',
        message: expect.stringMatching(message),
      });
    // raw text needs no template
    expect((await broken.complete('Hi', { raw: true, maxTokens: 2 })).ids).toHaveLength(2);
  });

  it.each<[string, string]>([
    ['that is no JSON', '{'],
    ['without a model', '{"version": "1.0"}'],
    ['with a vocabulary of text', '{"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}}'],
  ])('a sound tokenizer: one %s', async (name, text) => {
    const folder = await writeHybrid(join(root, name.replaceAll(' ', '-')));
    await writeFile(join(folder, 'tokenizer.json'), text);
    expect((await errorOf(() => load(folder))).code).toBe('INVALID_FILE');
  });
});

describe('a package without a binary for this machine', () => {
  it('imports, and says so at the first call', async () => {
    const fromRoot = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
    const copy = join(root, 'package');
    await mkdir(copy);
    for (const path of ['src', 'package.json', 'tsconfig.json'])
      await cp(fromRoot(path), join(copy, path), { recursive: true });
    await symlink(fromRoot('node_modules'), join(copy, 'node_modules'));
    const script = `
      import { load, devices } from './src/index.ts';
      const code = async (call) => { try { await call(); } catch (error) { return [error.name, error.code, error.message]; } };
      console.log(JSON.stringify([await code(() => load(${JSON.stringify(tinyGguf)})), await code(devices)]));`;
    await writeFile(join(copy, 'script.mts'), script);
    const { stdout, stderr, status } = spawnSync(process.execPath, ['--import', 'tsx', 'script.mts'], {
      cwd: copy,
      encoding: 'utf8',
    });
    expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
    for (const [name, code, message] of JSON.parse(stdout)) {
      expect([name, code]).toEqual(['CrosscurrentError', 'NATIVE_NOT_FOUND']);
      expect(message).toContain('npx crosscurrent-build');
    }
  });
});
