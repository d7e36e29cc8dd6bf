// Requests beside each other on small real models: shared beginnings, preemption, rewinding and replaying leave every bit as it is; who waits, and who goes first.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Sampler } from '../../src/generate/sampling.js';
import type { Scheduler } from '../../src/generate/scheduler.js';
import { type GenerateOptions, type LoadOptions, load, lookahead, type Model, promptLookup } from '../../src/index.js';
import { hostOf } from '../../src/model.js';
import { pageTokens } from '../../src/model-plan.js';
import { randomNumbers } from '../models/support.js';
import { missing, parityFolder, tinyGguf } from '../support/models.js';
import { errorOf, reasonOf } from './support.js';

const models = [
  { name: 'the model that ships', path: tinyGguf },
  ...['llama', 'mistral_window', 'mamba', 'mamba2', 'jamba', 'granitemoehybrid', 'nemotron_h'].map((name) => ({
    name,
    path: `${parityFolder}${name}`,
  })),
].filter(({ path }) => !missing(path));

const idsOf = (length: number, salt: number, vocab: number): number[] =>
  Array.from({ length }, (_, i) => 3 + ((Math.imul(i + 977 * salt, 2654435761) >>> 9) % Math.min(vocab - 3, 5000)));

const sampled = (seed: number): GenerateOptions => ({ temperature: 0.9, topP: 0.95, seed, ignoreEos: true });

/** The tokens that follow a prompt, and every bit that native code then holds of the sequence. The prompt and all tokens but the last fill their pages. */
async function outcome(model: Model, prompt: readonly number[], tokens: number, seed: number, sharesPrefix = true) {
  const { scheduler, vocab } = hostOf(model);
  const state = await scheduler.open();
  try {
    state.ids.push(...prompt);
    const task = {
      state,
      target: prompt.length,
      capacity: prompt.length + tokens,
      sampler: new Sampler(sampled(seed), vocab),
      sharesPrefix,
      onToken: () => true,
      cachedTokens: 0,
    };
    await scheduler.run(task);
    expect(state.processed % pageTokens, 'no page is partly filled').toBe(0);
    const bytes = await scheduler.save(state, 0);
    return { ids: state.ids.slice(prompt.length), bytes, cached: task.cachedTokens };
  } finally {
    scheduler.close(state);
  }
}

const expectSame = (got: Awaited<ReturnType<typeof outcome>>, wanted: Awaited<ReturnType<typeof outcome>>): void => {
  expect(got.ids).toEqual(wanted.ids);
  expect(Buffer.compare(got.bytes, wanted.bytes), 'the same bits').toBe(0);
};

describe.each(models)('$name', ({ path }) => {
  const options: LoadOptions = { context: 256, sequences: 6, threads: 1 };
  let model: Model;
  let plain: Model;
  beforeAll(async () => {
    model = await load(path, options);
    plain = await load(path, { ...options, prefixCacheBytes: 0 });
  });
  afterAll(() => Promise.all([model.dispose(), plain.dispose()]));
  const ids = (length: number, salt = 0): number[] => idsOf(length, salt, model.info.vocab);

  it('the beginning of an earlier prompt is not run again, and no bit is another', async () => {
    const first = ids(150);
    // the same again, longer, parting in the middle of a page, parting at a border, parting where another has parted before
    const prompts: [number[], number][] = [
      [first, 11],
      [first, 11],
      [[...first, ...ids(30, 1)], 13],
      [[...first.slice(0, 100), ...ids(50, 2)], 11],
      [[...first.slice(0, 96), ...ids(20, 3)], 13],
      [[...first.slice(0, 100), ...ids(50, 4)], 11],
    ];
    const cached: number[] = [];
    for (const [i, [prompt, tokens]] of prompts.entries()) {
      const got = await outcome(model, prompt, tokens, i);
      cached.push(got.cached);
      const wanted = await outcome(plain, prompt, tokens, i);
      expectSame(got, wanted);
      expect(wanted.cached).toBe(0);
    }
    const isRecurrent = model.program.states.some(({ kind }) => kind !== 'kv');
    // states are kept at the last border of a prompt, and where two have been seen to part
    expect(cached).toEqual(isRecurrent ? [0, 128, 128, 0, 96, 96] : [0, 128, 128, 96, 96, 96]);
    const { prefixCache } = model.stats;
    expect(prefixCache).toMatchObject({ hits: isRecurrent ? 4 : 5, tokens: cached.reduce((a, b) => a + b) });
    expect(prefixCache?.bytes).toBeGreaterThan(0);
    expect(plain.stats.prefixCache).toBeUndefined();
    const { stats } = await model.complete(Int32Array.from(first), { maxTokens: 2 });
    expect(stats.cachedPromptTokens).toBe(128);
  });

  it('many at once with one beginning', async () => {
    const shared = ids(100, 7);
    const prompts = [1, 2, 3, 4, 5].map((salt) => [...shared, ...ids(50, 10 + salt)]);
    const wanted: Awaited<ReturnType<typeof outcome>>[] = [];
    for (const [i, prompt] of prompts.entries()) wanted.push(await outcome(plain, prompt, 11, i));
    const got = await Promise.all(prompts.map((prompt, i) => outcome(model, prompt, 11, i)));
    got.forEach((each, i) => {
      expectSame(each, wanted[i] as typeof each);
    });
  });

  it('tokens run once more, as given or as chosen ones, give the same bits', async () => {
    const { scheduler } = hostOf(plain);
    const all = ids(193, 20);
    const savedOf = async (bounds: number[]): Promise<Uint8Array> => {
      const state = await scheduler.open();
      state.ids.push(...all);
      state.decoded.bounds = bounds;
      await scheduler.run({ state, target: 192, capacity: 193 });
      // one more of each kind: the last step's tokens are committed then
      state.decoded.bounds = [];
      await scheduler.run({ state, target: 193, capacity: 193 });
      expect(state.length).toBe(193);
      const bytes = await scheduler.save(state, 0);
      scheduler.close(state);
      return bytes;
    };
    const whole = await savedOf([]);
    for (const bounds of [
      [0, 192],
      [1, 190],
      [7, 20, 60, 150],
    ]) {
      const bytes = await savedOf(bounds);
      const differ = whole.findIndex((byte, i) => byte !== bytes[i]);
      expect(differ, `first byte that differs of ${bytes.length}, ${bounds} run as chosen`).toBe(-1);
    }
  });

  it('rewound by any number of tokens, it goes on as if they had never been there', async () => {
    const prompt = ids(70, 30);
    for (const [generated, dropped] of [
      [12, 1],
      [12, 2],
      [12, 9],
      [12, 12],
      [12, 40],
      [12, 82],
    ] as const) {
      await using sequence = await model.sequence();
      await sequence.feed(prompt);
      const first = await sequence
        .generate({ ...sampled(1), maxTokens: generated, speculate: promptLookup({ minMatch: 1 }) })
        .completion();
      await sequence.rewind(dropped);
      const left = [...prompt, ...first.ids].slice(0, prompt.length + generated - dropped);
      expect([...sequence.ids]).toEqual(left);
      await sequence.feed(ids(3, 31));
      const again = await sequence.generate({ ...sampled(2), maxTokens: 10 }).completion();
      await using other = await plain.sequence();
      await other.feed([...left, ...ids(3, 31)]);
      const wanted = await other.generate({ ...sampled(2), maxTokens: 10 }).completion();
      expect(again.ids, `${dropped} of ${prompt.length + generated}`).toEqual(wanted.ids);
    }
  });

  it('forks of one, rewound into the page that they share', async () => {
    await using root = await model.sequence();
    await root.feed(ids(80, 40));
    await using twin = await root.fork();
    await root.rewind(20);
    await root.feed(ids(30, 41));
    const [a, b] = await Promise.all(
      [root, twin].map((each) => each.generate({ ...sampled(3), maxTokens: 8 }).completion()),
    );
    for (const [prompt, got] of [
      [[...ids(80, 40).slice(0, 60), ...ids(30, 41)], a],
      [ids(80, 40), b],
    ] as const) {
      const wanted = await plain.complete(Int32Array.from(prompt), { ...sampled(3), maxTokens: 8 });
      expect(got?.ids).toEqual(wanted.ids);
    }
  });

  it('more than the cache holds: some are run again, and each answers as it does alone', async () => {
    await using tight = await load(path, { ...options, context: 192, cacheTokens: 192 });
    const requests = [0, 1, 2, 3, 4, 5].map((i) => ({
      prompt: Int32Array.from(ids(20 + 13 * i, 50 + i)),
      options: {
        ...sampled(i),
        maxTokens: 90,
        ...(i % 3 === 1 ? { speculate: lookahead() } : {}),
        priority: i % 2,
      },
    }));
    const wanted = await Promise.all(
      requests.map(({ prompt, options: { seed } }) =>
        plain.complete(prompt, { ...sampled(seed as number), maxTokens: 90 }),
      ),
    );
    const got = await Promise.all(requests.map(({ prompt, options: each }) => tight.complete(prompt, each)));
    expect(got.map((each) => each.ids)).toEqual(wanted.map((each) => each.ids));
    if (tight.info.memory.cache > 0) expect(tight.stats.preemptions).toBeGreaterThan(0);
    expect(tight.stats).toMatchObject({ running: 0, waiting: 0 });
    hostOf(tight).scheduler.audit();
  });

  const events = path === tinyGguf ? 30 : 300;
  it(`${events} requests, aborts and forks at random, in little room`, { timeout: 120_000 }, async () => {
    await using tight = await load(path, { ...options, context: 160, cacheTokens: 160, sequences: 5 });
    const random = randomNumbers(20261125);
    const integer = (below: number): number => Math.floor(Math.abs(random()) * below);
    const kinds = await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        const prompt = Int32Array.from([...ids(20 + 9 * i, 60 + (i % 2)), ...ids(1 + i, 70 + i)]);
        const each = { ...sampled(i), maxTokens: 24 };
        return { prompt, each, alone: (await plain.complete(prompt, each)).ids };
      }),
    );
    const drafters = [
      () => ({}),
      () => ({ speculate: lookahead() }),
      () => ({ speculate: promptLookup({ minMatch: 1 }) }),
    ];
    const stop = new Error('no longer wanted');
    const running = new Set<Promise<void>>();
    let finished = 0;
    const request = async (signal: AbortSignal): Promise<void> => {
      const { prompt, each, alone } = kinds[integer(kinds.length)] as (typeof kinds)[number];
      const more = { signal, priority: integer(3) - 1, ...(drafters[integer(3)] as () => object)() };
      if (integer(6) === 0) {
        await using sequence = await tight.sequence({ signal });
        await sequence.feed(prompt, { signal });
        const { ids: got } = await sequence.generate({ ...each, ...more }).completion();
        expect(got).toEqual(alone);
        await sequence.rewind(24);
        expect((await sequence.generate({ ...each, signal }).completion()).ids).toEqual(alone);
      } else {
        expect((await tight.complete(prompt, { ...each, ...more })).ids).toEqual(alone);
      }
      finished++;
    };
    for (let event = 0; event < events; event++) {
      const controller = new AbortController();
      const work: Promise<void> = request(controller.signal)
        .catch((error) => {
          if (error !== stop) throw error;
        })
        .finally(() => running.delete(work));
      work.catch(() => {}); // seen below
      running.add(work);
      if (integer(4) === 0) setTimeout(() => controller.abort(stop), integer(30));
      if (running.size >= 9) await Promise.race(running);
      hostOf(tight).scheduler.audit();
    }
    await Promise.all(running);
    expect(finished).toBeGreaterThan(events / 2);
    expect(tight.stats).toMatchObject({ running: 0, waiting: 0 });
  });
});

describe('who waits', () => {
  let model: Model;
  beforeAll(async () => {
    model = await load(tinyGguf, { context: 64, sequences: 1 });
  });
  afterAll(() => model.dispose());
  const prompt = (i: number): Int32Array => Int32Array.from(idsOf(10, i, 5000));
  const busy = async (model: Model): Promise<{ release: () => Promise<void> }> => {
    const held = await model.sequence();
    return { release: () => held.dispose() };
  };

  it('as many requests as maxQueue; further ones are refused', async () => {
    await using model = await load(tinyGguf, { context: 64, sequences: 1, maxQueue: 2 });
    const { release } = await busy(model);
    const waiting = [0, 1].map((i) => model.complete(prompt(i), { maxTokens: 2 }));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(model.stats).toMatchObject({ running: 0, waiting: 2 });
    const error = await errorOf(() => model.complete(prompt(2)));
    expect(error).toMatchObject({ code: 'QUEUE_FULL', expected: expect.stringContaining('2'), got: '2' });
    await release();
    await Promise.all(waiting);
    await model.complete(prompt(3), { maxTokens: 2 });
    expect(model.stats).toMatchObject({ running: 0, waiting: 0 });
  });

  it('maxQueue 0: nobody waits', async () => {
    await using model = await load(tinyGguf, { context: 64, sequences: 1, maxQueue: 0 });
    await model.complete(prompt(0), { maxTokens: 2 });
    const { release } = await busy(model);
    expect((await errorOf(() => model.complete(prompt(1)))).code).toBe('QUEUE_FULL');
    await release();
    await model.complete(prompt(1), { maxTokens: 2 });
  });

  it('the higher priority goes first, among equals the first to come', async () => {
    const { release } = await busy(model);
    const order: number[] = [];
    const waiting = [0, 1, 5, 1, -3, 5].map((priority, i) =>
      model.complete(prompt(i), { maxTokens: 2, priority }).then(() => order.push(i)),
    );
    await new Promise((resolve) => setTimeout(resolve, 20));
    await release();
    await Promise.all(waiting);
    expect(order).toEqual([2, 5, 1, 3, 0, 4]);
  });

  it.each([
    ['maxQueue', -1],
    ['maxQueue', 1.5],
    ['prefixCacheBytes', Number.NaN],
    ['prefixCacheBytes', -1],
  ] as const)('load: %s %s', async (key, value) => {
    const error = await errorOf(() => load(tinyGguf, { [key]: value }));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', operand: key, got: String(value) });
  });

  it.each([0.5, Number.NaN, Number.POSITIVE_INFINITY, 1e6, '1'])('generate: priority %s', async (priority) => {
    const error = await errorOf(() => model.complete(prompt(0), { priority: priority as number }));
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT', operand: 'priority' });
  });

  it('a held sequence keeps its pages from new requests, and gets them back from those that run', async () => {
    await using model = await load(tinyGguf, { context: 160, sequences: 3, cacheTokens: 160, prefixCacheBytes: 0 });
    await using held = await model.sequence();
    const ids = idsOf(150, 5, 5000);
    await held.feed(ids);
    // 5 of 8 pages are taken: this one finds room for its prompt, and outgrows what is left
    const long = await model.complete(prompt(1), { ...sampled(1), maxTokens: 140 });
    expect(long.ids).toHaveLength(140);
    const error = await errorOf(() =>
      model.logits(idsOf(150, 6, 5000)).then(() => held.feed([1]).then(() => model.logits(idsOf(155, 6, 5000)))),
    );
    expect(error.code).toBe('OUT_OF_MEMORY');
    const { ids: got } = await held.generate({ ...sampled(2), maxTokens: 5 }).completion();
    expect(got).toHaveLength(5);
  });

  it('aborted while it waits for room', async () => {
    await using model = await load(tinyGguf, { context: 160, sequences: 3, cacheTokens: 160 });
    const running = [0, 1].map((i) =>
      model.complete(Int32Array.from(idsOf(100, i, 5000)), { maxTokens: 50, ignoreEos: true }),
    );
    const reason = new Error('no longer wanted');
    const controller = new AbortController();
    const waiting = reasonOf(() =>
      model.complete(Int32Array.from(idsOf(150, 9, 5000)), {
        signal: controller.signal,
        maxTokens: 5,
        ignoreEos: true,
      }),
    );
    setTimeout(() => controller.abort(reason), 10);
    const outcome = await waiting;
    expect(outcome).toBe(reason);
    for (const { ids } of await Promise.all(running)) expect(ids).toHaveLength(50);
    const { scheduler }: { scheduler: Scheduler } = hostOf(model);
    scheduler.audit();
  });
});
