// The tokens and logits of a sequence: the same bits alone, beside others, however its prompt is cut, forked, saved or restored.
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Scheduler } from '../../src/generate/scheduler.js';
import type { SchedulerLimits } from '../../src/generate/task.js';
import { type GenerateOptions, load, type Model } from '../../src/index.js';
import { Model as ModelOf } from '../../src/model.js';
import { decodeWindow, pageTokens, planModel } from '../../src/model-plan.js';
import { loadWeights, openSession, parseProgram } from '../../src/native/index.js';
import { openModelFiles } from '../../src/weights/open.js';
import { missing, smollm2Gguf, tinyGguf } from '../support/models.js';
import { loadTiny, someIds } from './support.js';

/** Borders of pages (32), chunks (256) and rows of logits (32), and one to either side. */
const lengths = [1, 31, 33, 64, 100, 255, 257, 520];
const prompts = lengths.map((length, i) => someIds(length, i));
const optionsOf = (i: number): GenerateOptions => ({
  maxTokens: 12,
  ignoreEos: true,
  ...(i % 2 ? { temperature: 0.9, topP: 0.95, seed: 100 + i, presencePenalty: 0.5 } : {}),
});

async function outcome(model: Model, i: number): Promise<{ ids: readonly number[]; logits: Uint8Array }> {
  const prompt = prompts[i] as Int32Array;
  const { ids } = await model.complete(prompt, optionsOf(i));
  const logits = await model.logits(Int32Array.from([...prompt, ...ids].slice(-40)));
  return { ids, logits: new Uint8Array(logits.buffer) };
}

const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;

/** A model whose steps take other sizes than `load` gives them. */
async function openWith(limits: Pick<SchedulerLimits, 't' | 'chunk' | 'rows' | 'seqs'>): Promise<Model> {
  const files = await openModelFiles(tinyGguf);
  const { info, program, context, slots, pages } = await planModel(files, { context: 640, sequences: 8 });
  const native = parseProgram(program.words);
  const weights = await loadWeights(files.file, native, program.weights);
  const session = await openSession(native, weights, { slots, pages, pageTokens, window: decodeWindow, threads: 1 });
  const memory = { weights: 0, activations: 0, states: 0, drafts: 0, cache: 0, prefixes: 0, total: 0 };
  return new ModelOf({
    info: { ...info, device: 'cpu', isa: '', activations: 'fast', kv: 'f32', context, fingerprint: '0', memory },
    program,
    scheduler: new Scheduler(session, { ...program.bounds, ...limits, slots, pages, pageTokens, context }),
    tokenizer: undefined,
    close: async () => {
      for (const item of [session, weights, native, files]) await item.close();
    },
  });
}

describe.each([
  ['the model that ships', tinyGguf],
  ['SmolLM2', smollm2Gguf],
])('%s', (name, path) => {
  const reason = missing(path);
  if (reason) return void it.skip(`needs its file: ${reason}`, () => {});
  // the larger model runs fewer of them
  const chosen = path === tinyGguf ? lengths.map((_, i) => i) : [1, 4];

  it('several at once give what each gives alone', { timeout: 120_000 }, async () => {
    await using model = await load(path, { context: 640, sequences: 8 });
    const alone: Awaited<ReturnType<typeof outcome>>[] = [];
    for (const i of chosen) alone.push(await outcome(model, i));
    expect(new Set(alone.map(({ ids }) => ids.join())).size, name).toBe(chosen.length);
    const together = await Promise.all(chosen.map((i) => outcome(model, i)));
    chosen.forEach((_, k) => {
      expect(together[k]?.ids).toEqual(alone[k]?.ids);
      expect(same(together[k]!.logits, alone[k]!.logits)).toBe(true);
    });
  });
});

describe('whatever a model was loaded with', () => {
  const chosen = [0, 2, 5, 7];
  let expected: Awaited<ReturnType<typeof outcome>>[];
  beforeAll(async () => {
    await using model = await loadTiny({ context: 640, sequences: 8 });
    expected = [];
    for (const i of chosen) expected.push(await outcome(model, i));
  });
  const check = async (model: Model): Promise<void> => {
    const got = await Promise.all(chosen.map((i) => outcome(model, i)));
    got.forEach(({ ids, logits }, k) => {
      expect(ids).toEqual(expected[k]?.ids);
      expect(same(logits, expected[k]!.logits)).toBe(true);
    });
  };

  it.each([
    ['one place', { context: 640, sequences: 1 }],
    ['room in the cache for one', { context: 640, sequences: 4, cacheTokens: 640 }],
    ['much room', { context: 2048, sequences: 8, cacheTokens: 8192 }],
    ['two threads', { context: 640, sequences: 3, threads: 2 }],
  ])('%s', async (_, options) => {
    await using model = await loadTiny(options);
    await check(model);
  });

  it.each([
    ['chunks of 32 tokens in steps of 64', { t: 64, chunk: 32, rows: 8, seqs: 8 }],
    ['chunks of 64 in steps of 64', { t: 64, chunk: 64, rows: 32, seqs: 2 }],
    ['chunks of 128 in steps of 256', { t: 256, chunk: 128, rows: 1, seqs: 8 }],
  ])('%s', async (_, limits) => {
    await using model = await openWith(limits);
    await check(model);
  });
});

describe('a sequence', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadTiny({ context: 640, sequences: 8 });
  });
  afterAll(() => model.dispose());
  const options: GenerateOptions = { maxTokens: 10, ignoreEos: true, temperature: 0.8, seed: 5 };
  const fed = async (ids: Int32Array, pieces: readonly number[] = [ids.length], where = model) => {
    const sequence = await where.sequence();
    let at = 0;
    for (const piece of pieces) {
      await sequence.feed(ids.subarray(at, at + piece));
      at += piece;
    }
    return sequence;
  };

  it('fed in pieces, is the same to the last bit of its state', async () => {
    const ids = someIds(300, 9);
    // all at once in a new model: the rest of a page not yet full holds what was there before
    const ways = [[300], [1, 299], [100, 100, 100], [33, 7, 216, 1, 43], new Array<number>(300).fill(1)];
    await using fresh = await loadTiny({ context: 320, sequences: ways.length, cacheTokens: 320 * ways.length });
    const sequences = await Promise.all(ways.map((pieces) => fed(ids, pieces, fresh)));
    const saved = await Promise.all(sequences.map((each) => each.save()));
    const continued = await Promise.all(sequences.map(async (each) => (await each.generate(options).completion()).ids));
    for (const bytes of saved.slice(1)) expect(same(bytes, saved[0] as Uint8Array)).toBe(true);
    for (const each of continued.slice(1)) expect(each).toEqual(continued[0]);
  });

  it('a fork continues as the original does, and neither touches the other', async () => {
    for (const length of [5, 32, 100]) {
      await using sequence = await fed(someIds(length, 1));
      await sequence.generate({ maxTokens: 3, ignoreEos: true }).completion();
      await using twin = await sequence.fork();
      await using other = await twin.fork();
      expect([...twin.ids]).toEqual([...sequence.ids]);
      await other.feed(someIds(40, 2));
      await other.generate({ maxTokens: 5, ignoreEos: true }).completion();
      const first = await twin.generate(options).completion();
      const second = await sequence.generate(options).completion();
      expect(second.ids).toEqual(first.ids);
      const alone = await model.complete(Int32Array.from(first.promptIds), options);
      expect(alone.ids).toEqual(first.ids);
    }
  });

  it('forks of one prompt run at once, and outlive the original', async () => {
    const root = await fed(someIds(70, 4));
    const twins = await Promise.all([1, 2, 3].map(() => root.fork().catch((error) => error)));
    // one operation at a time: the first took the sequence
    expect(twins.filter(({ code }) => code === 'INVALID_STATE')).toHaveLength(2);
    const forks = [twins[0], await root.fork(), await root.fork()];
    await root.dispose();
    const results = await Promise.all(forks.map((fork, i) => fork.generate({ ...options, seed: i }).completion()));
    for (const [i, { promptIds, ids }] of results.entries()) {
      const alone = await model.complete(Int32Array.from(promptIds), { ...options, seed: i });
      expect(ids).toEqual(alone.ids);
    }
    for (const fork of forks) await fork.dispose();
  });

  it('saved and restored, continues as it would have', async () => {
    await using empty = await model.sequence();
    await using none = await model.restore(await empty.save());
    expect(none.length).toBe(0);
    for (const [length, generated] of [
      [1, 0],
      [32, 0],
      [90, 4],
      [300, 1],
    ] as const) {
      await using sequence = await fed(someIds(length, 6));
      if (generated > 0) await sequence.generate({ maxTokens: generated, ignoreEos: true }).completion();
      const bytes = await sequence.save();
      await using twin = await model.restore(bytes);
      expect([...twin.ids]).toEqual([...sequence.ids]);
      expect(same(await twin.save(), bytes)).toBe(true);
      const expected = (await sequence.generate(options).completion()).ids;
      expect((await twin.generate(options).completion()).ids).toEqual(expected);
      // the sequence went on; the bytes did not
      await using again = await model.restore(bytes);
      expect((await again.generate(options).completion()).ids).toEqual(expected);
    }
  });

  it('restored in another model of the same file, loaded otherwise', async () => {
    await using sequence = await fed(someIds(90, 8));
    const bytes = await sequence.save();
    await using other = await loadTiny({ context: 256, sequences: 1 });
    await using twin = await other.restore(bytes);
    const expected = (await sequence.generate(options).completion()).ids;
    expect((await twin.generate(options).completion()).ids).toEqual(expected);
  });

  it('restored in another process', { timeout: 60_000 }, async () => {
    const folder = await mkdtemp(join(tmpdir(), 'crosscurrent-save-'));
    await using sequence = await fed(someIds(70, 7));
    await sequence.generate({ maxTokens: 2, ignoreEos: true }).completion();
    const path = join(folder, 'sequence.bin');
    await writeFile(path, await sequence.save());
    const script = fileURLToPath(new URL('./restore-child.ts', import.meta.url));
    const child = spawn(process.execPath, ['--import', 'tsx', script, path], { stdio: ['ignore', 'pipe', 'inherit'] });
    let output = '';
    child.stdout.on('data', (data) => {
      output += data;
    });
    const code = await new Promise((resolve) => child.once('close', resolve));
    await rm(folder, { recursive: true });
    expect(code).toBe(0);
    const continued = await sequence
      .generate({ maxTokens: 10, ignoreEos: true, temperature: 0.8, seed: 5 })
      .completion();
    expect(JSON.parse(output)).toEqual(continued.ids);
  });
});
