// Aborting, leaving, disposing: at any moment, and what stays usable.
import { getEventListeners } from 'node:events';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { load, type Model } from '../../src/index.js';
import { tinyGguf } from '../support/models.js';
import { answer, capital, errorOf, loadTiny, reasonOf, someIds } from './support.js';

const reason = new Error('no longer wanted');
const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));
const listeners = ({ signal }: AbortController): number => getEventListeners(signal, 'abort').length;

// The text worker of the process lives as long as some model: it starts once for this file.
let keeper: Model;
beforeAll(async () => {
  keeper = await loadTiny({ sequences: 1, context: 64 });
});
afterAll(() => keeper.dispose());

describe('load', () => {
  it('aborted before', async () => {
    expect(await reasonOf(() => load(tinyGguf, { signal: AbortSignal.abort(reason) }))).toBe(reason);
  });

  it('aborted at any moment: rejects with the reason, or has loaded', async () => {
    const outcomes = new Set<string>();
    for (const ms of [0, 1, 3, 8, 20, 50, 100, 200]) {
      const controller = new AbortController();
      const loading = load(tinyGguf, { signal: controller.signal, sequences: 1, context: 64 });
      setTimeout(() => controller.abort(reason), ms);
      const result = await loading.then(
        async (model) => {
          await model.dispose();
          return 'loaded';
        },
        (error) => (error === reason ? 'aborted' : error),
      );
      outcomes.add(result);
      expect(['loaded', 'aborted']).toContain(result);
      controller.abort(reason);
      expect(listeners(controller)).toBe(0);
    }
    expect(outcomes).toContain('aborted');
  });

  it('aborted while weights are packed, or ended by what onProgress throws', async () => {
    const controller = new AbortController();
    const aborted = load(tinyGguf, { signal: controller.signal, onProgress: () => controller.abort(reason) });
    // the last report may come when all is done
    const model = await aborted.catch((error) => error);
    if (model !== reason) await (model as Model).dispose();
    const failing = load(tinyGguf, {
      onProgress() {
        throw reason;
      },
    });
    expect(await reasonOf(() => failing)).toBe(reason);
  });

  it('aborted after: nothing happens', async () => {
    const controller = new AbortController();
    await using model = await load(tinyGguf, { signal: controller.signal, sequences: 1, context: 128 });
    controller.abort(reason);
    expect((await model.complete(capital, { maxTokens: 16 })).text).toBe(answer);
  });
});

describe('on a model with one place', () => {
  let model: Model;
  beforeAll(async () => {
    model = await loadTiny({ sequences: 1 });
  });
  afterAll(() => model.dispose());
  /** The only place is free, and what runs on it is right. */
  const works = async (): Promise<void> => expect((await model.complete(capital, { maxTokens: 16 })).text).toBe(answer);

  it('generate aborted before', async () => {
    expect(await reasonOf(() => model.complete(capital, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    await works();
  });

  it('generate aborted in the loop', async () => {
    const controller = new AbortController();
    let pieces = 0;
    const loop = async (): Promise<void> => {
      for await (const _ of model.generate(capital, { ignoreEos: true, signal: controller.signal }))
        if (++pieces === 3) controller.abort(reason);
    };
    expect(await reasonOf(loop)).toBe(reason);
    expect(pieces).toBe(3);
    expect(listeners(controller)).toBe(0);
    await works();
  });

  it('generate aborted at any moment of a long prompt', async () => {
    for (const ms of [0, 2, 10, 40]) {
      const signal = AbortSignal.timeout(ms);
      const error = await reasonOf(() => model.complete(someIds(480), { ignoreEos: true, signal }));
      expect(error).toMatchObject({ name: 'TimeoutError' });
    }
    await works();
  });

  it('generate aborted after', async () => {
    const controller = new AbortController();
    const { text } = await model.complete(capital, { maxTokens: 16, signal: controller.signal });
    controller.abort(reason);
    expect(text).toBe(answer);
    expect(listeners(controller)).toBe(0);
    await works();
  });

  it('generate, logits and sequence aborted while they wait for the place', async () => {
    const holder = model.generate(capital, { ignoreEos: true })[Symbol.asyncIterator]();
    await holder.next(); // now it has the place
    const controller = new AbortController();
    const { signal } = controller;
    const waiting = [
      model.complete(capital, { signal }),
      model.logits(someIds(4), { signal }),
      model.sequence({ signal }),
    ].map((each) => reasonOf(() => each));
    await sleep(1);
    controller.abort(reason);
    expect(await Promise.all(waiting)).toEqual([reason, reason, reason]);
    await holder.return();
    expect(listeners(controller)).toBe(0);
    await works();
  });

  it('breaking the loop cancels', async () => {
    for (let i = 0; i < 3; i++)
      for await (const piece of model.generate(capital, { ignoreEos: true })) {
        expect(piece.ids.length).toBeGreaterThan(0);
        break;
      }
    await works();
  });

  it('an exception in the loop passes through and cancels', async () => {
    const loop = async (): Promise<void> => {
      for await (const _ of model.generate(capital, { ignoreEos: true })) throw reason;
    };
    expect(await reasonOf(loop)).toBe(reason);
    await works();
  });

  it('a generation that nobody reads takes no place', async () => {
    model.generate(capital);
    await works();
  });

  it('a reader that takes its time holds no place', async () => {
    const texts = [];
    for await (const _ of model.generate(capital, { maxTokens: 3 }))
      texts.push((await model.complete(capital, { maxTokens: 16 })).text);
    expect(new Set(texts)).toEqual(new Set([answer]));
  });

  it('aborting one that was just woken forgets nobody', async () => {
    const held = await model.sequence();
    const controller = new AbortController();
    const first = reasonOf(() => model.complete(capital, { signal: controller.signal }));
    const second = model.complete(capital, { maxTokens: 16 });
    await sleep(20);
    await held.dispose();
    controller.abort(reason);
    expect(await first).toBe(reason);
    expect((await second).text).toBe(answer);
  });

  it('more generations than places: each gets its turn', async () => {
    const all = await Promise.all(Array.from({ length: 5 }, () => model.complete(capital, { maxTokens: 16 })));
    for (const { text } of all) expect(text).toBe(answer);
  });

  it('feed aborted before, during and after leaves a usable sequence', async () => {
    const ids = someIds(480);
    let expected: readonly number[];
    {
      await using whole = await model.sequence();
      await whole.feed(ids);
      expected = (await whole.generate({ maxTokens: 4, ignoreEos: true }).completion()).ids;
    }
    await using sequence = await model.sequence();
    expect(await reasonOf(() => sequence.feed(ids, { signal: AbortSignal.abort(reason) }))).toBe(reason);
    const kept = [sequence.length];
    for (const ms of [1, 20]) {
      const rest = ids.subarray(sequence.length);
      const error = await reasonOf(() => sequence.feed(rest, { signal: AbortSignal.timeout(ms) }));
      expect(error).toMatchObject({ name: 'TimeoutError' });
      kept.push(sequence.length);
      expect([...sequence.ids]).toEqual([...ids.subarray(0, sequence.length)]);
    }
    expect(kept[0]).toBe(0);
    expect(kept).toEqual(kept.toSorted((a, b) => a - b));
    const controller = new AbortController();
    await sequence.feed(ids.subarray(sequence.length), { signal: controller.signal });
    controller.abort(reason);
    expect((await sequence.generate({ maxTokens: 4, ignoreEos: true }).completion()).ids).toEqual(expected);
  });

  it('a sequence goes on after its generation was aborted', async () => {
    await using sequence = await model.sequence();
    await sequence.feed(someIds(30));
    const controller = new AbortController();
    const loop = async (): Promise<void> => {
      for await (const _ of sequence.generate({ ignoreEos: true, signal: controller.signal })) controller.abort(reason);
    };
    expect(await reasonOf(loop)).toBe(reason);
    const before = sequence.ids;
    const { ids } = await sequence.generate({ maxTokens: 4, ignoreEos: true }).completion();
    await sequence.dispose();
    expect((await model.complete(before, { maxTokens: 4, ignoreEos: true })).ids).toEqual(ids);
  });
});

describe('dispose', () => {
  it('while generating: every generation rejects, waiting ones too', async () => {
    const model = await loadTiny({ sequences: 2 });
    const running = Array.from({ length: 4 }, () => errorOf(() => model.complete(capital, { ignoreEos: true })));
    const feeding = errorOf(async () => (await model.sequence()).feed(someIds(400)));
    await sleep(30);
    await Promise.all([model.dispose(), model.dispose()]);
    for (const error of [...(await Promise.all(running)), await feeding]) expect(error.code).toBe('DISPOSED');
    await model.dispose();
  });

  it('at any moment of a generation', async () => {
    for (const ms of [0, 1, 5]) {
      const model = await loadTiny({ sequences: 2 });
      const running = errorOf(() => model.complete(capital, { ignoreEos: true }));
      await sleep(ms);
      await model.dispose();
      expect((await running).code).toBe('DISPOSED');
    }
  });

  it('use after it', async () => {
    const model = await loadTiny({ sequences: 2 });
    const sequence = await model.sequence();
    await sequence.feed(someIds(5));
    const saved = await sequence.save();
    const generation = model.generate(capital);
    await model[Symbol.asyncDispose]();
    const calls: (() => Promise<unknown>)[] = [
      () => generation.completion(),
      () => model.complete(capital),
      () => model.complete(Int32Array.of(1)),
      () => model.sequence(),
      () => model.restore(saved),
      () => model.logits([1]),
      async () => model.tokenize('a'),
      async () => model.detokenize([1]),
      () => sequence.feed([1]),
      () => sequence.generate().completion(),
      () => sequence.fork(),
      () => sequence.save(),
    ];
    for (const call of calls) expect((await errorOf(call)).code, String(call)).toBe('DISPOSED');
    await sequence.dispose();
    expect(model.info.context).toBe(512);
  });

  it('a sequence: twice, and use after it', async () => {
    await using model = await loadTiny({ sequences: 2 });
    const sequence = await model.sequence();
    await sequence.feed(someIds(5));
    await sequence.dispose();
    await sequence.dispose();
    const calls: (() => unknown)[] = [
      () => sequence.feed([1]),
      () => sequence.fork(),
      () => sequence.save(),
      () => sequence.generate().completion(),
      () => sequence.ids,
      () => sequence.length,
    ];
    for (const call of calls) expect((await errorOf(call)).code).toBe('DISPOSED');
  });
});
