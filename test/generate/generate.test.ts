// Text in, text out: the public calls of a model, on the one that ships.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { devices, inspect, type Model, version } from '../../src/index.js';
import { tinyGguf } from '../support/models.js';
import { answer, argmax, capital, collect, errorOf, loadTiny, someIds } from './support.js';

let model: Model;
beforeAll(async () => {
  model = await loadTiny();
});
afterAll(() => model.dispose());

describe('generate and complete', () => {
  it('pieces join to the completion', async () => {
    const generation = model.generate(capital, { maxTokens: 32 });
    expect(generation.stats).toBeUndefined();
    const streamed = await collect(generation);
    const whole = await model.complete(capital, { maxTokens: 32 });
    expect(whole.text).toBe(answer);
    expect(streamed.text).toBe(whole.text);
    expect(streamed.ids).toEqual(whole.ids);
    expect(streamed.pieces.length).toBeGreaterThan(3);
    for (const piece of streamed.pieces) expect(piece.text !== '' || piece.ids.length > 0).toBe(true);
    expect(generation.stats).toMatchObject({ tokens: whole.ids.length, finishReason: 'eos' });
  });

  it('stats', async () => {
    const { ids, promptIds, stats } = await model.complete(capital, { maxTokens: 5 });
    expect(stats).toEqual({
      promptTokens: promptIds.length,
      cachedPromptTokens: 0,
      tokens: 5,
      firstTokenMs: expect.any(Number),
      decodeMs: expect.any(Number),
      tokensPerSecond: expect.any(Number),
      promptTokensPerSecond: expect.any(Number),
      finishReason: 'length',
      seed: expect.any(BigInt),
      peakBytes: model.info.memory.total,
    });
    expect(ids).toHaveLength(5);
    for (const key of ['firstTokenMs', 'decodeMs', 'tokensPerSecond', 'promptTokensPerSecond'] as const)
      expect(stats[key]).toBeGreaterThan(0);
  });

  it('a string is a message, messages are the same, ids go as they are', async () => {
    const options = { maxTokens: 6 };
    const fromText = await model.complete(capital, options);
    const fromMessages = await model.complete([{ role: 'user', content: capital }], options);
    const fromIds = await model.complete(Int32Array.from(fromText.promptIds), options);
    expect(fromMessages.promptIds).toEqual(fromText.promptIds);
    expect(fromIds.promptIds).toEqual(fromText.promptIds);
    expect(fromMessages.ids).toEqual(fromText.ids);
    expect(fromIds.ids).toEqual(fromText.ids);
    expect(await model.detokenize(fromText.promptIds)).toContain(capital);
  });

  it('raw text gets no template', async () => {
    const { promptIds, text } = await model.complete('The capital of France is', { raw: true, maxTokens: 1 });
    expect(promptIds).toEqual([...(await model.tokenize('The capital of France is'))]);
    expect(text).toBe(' Paris');
  });

  it('a system message and several turns', async () => {
    const messages = [
      { role: 'system', content: 'You are terse.' },
      { role: 'user', content: 'Hi' },
      { role: 'assistant', content: 'Hello.' },
      { role: 'user', content: capital },
    ];
    const { promptIds } = await model.complete(messages, { maxTokens: 1 });
    const prompt = await model.detokenize(promptIds);
    for (const { content } of messages) expect(prompt).toContain(content);
  });

  it('ignoreEos goes on; without it the text ends there', async () => {
    const ends = await model.complete(capital, { maxTokens: 20 });
    const goesOn = await model.complete(capital, { maxTokens: 20, ignoreEos: true });
    expect(ends.stats.finishReason).toBe('eos');
    expect(model.tokenizer?.endIds).toContain(ends.ids.at(-1));
    expect(goesOn.stats).toMatchObject({ finishReason: 'length', tokens: 20 });
    expect(goesOn.ids.slice(0, ends.ids.length)).toEqual(ends.ids);
  });

  it('the end of the context ends the text', async () => {
    const prompt = someIds(500);
    const { ids, stats } = await model.complete(prompt, { ignoreEos: true });
    expect(stats.finishReason).toBe('context');
    expect(prompt.length + ids.length).toBe(model.info.context);
    expect((await model.complete(someIds(511), { ignoreEos: true })).ids).toHaveLength(1);
  });

  it('maxTokens 1', async () => {
    const { ids, stats } = await model.complete(capital, { maxTokens: 1 });
    expect(ids).toHaveLength(1);
    expect(stats).toMatchObject({ tokens: 1, tokensPerSecond: 0 });
  });

  it('greedy tokens are the largest logits', async () => {
    const { ids, promptIds } = await model.complete(capital, { maxTokens: 6 });
    const { vocab } = model.info;
    const all = Int32Array.from([...promptIds, ...ids]);
    const logits = await model.logits(all);
    expect(logits).toHaveLength(all.length * vocab);
    ids.forEach((id, i) => {
      const row = promptIds.length - 1 + i;
      expect(argmax(logits.subarray(row * vocab, (row + 1) * vocab))).toBe(id);
    });
  });
});

describe('stop strings', () => {
  it.each<[string, string | string[], string]>([
    ['one that spans tokens', 'capital of Fra', 'The '],
    ['the first of a list to come', ['Paris', ' of France'], 'The capital'],
    ['one inside a token', 'ari', 'The capital of France is P'],
    ['one at the very start', 'The', ''],
    ['one of one character', '.', answer.slice(0, -1)],
    ['none that comes', ['Berlin', 'is Paris!'], answer],
  ])('%s', async (_, stop, text) => {
    const whole = await model.complete(capital, { maxTokens: 32, stop });
    expect(whole.text).toBe(text);
    expect(whole.stats.finishReason).toBe(text === answer ? 'eos' : 'stop');
    // nothing of a stop string is ever given out
    const { text: streamed, ids } = await collect(model.generate(capital, { maxTokens: 32, stop }));
    expect(streamed).toBe(text);
    expect(ids).toEqual(whole.ids);
  });

  it('text held back for one is given out when maxTokens end it', async () => {
    const { text, ids } = await model.complete(capital, { maxTokens: 2, stop: 'The capital of Spain' });
    expect(text).toBe('The capital');
    expect(ids).toHaveLength(2);
  });

  it.each([[''], [['a', '']], [[1]]])('%j is no stop string', async (stop) => {
    const { code, operand } = await errorOf(() => model.complete(capital, { stop: stop as string }));
    expect({ code, operand }).toEqual({ code: 'INVALID_ARGUMENT', operand: 'stop' });
  });
});

describe('tokenize and detokenize', () => {
  it.each(['', 'Hello, world', 'naïve café 🙂 日本語', '<|im_start|>', ' leading', 'a'.repeat(3000)])(
    'round trip of %j',
    async (text) => {
      const ids = await model.tokenize(text, { addSpecialTokens: false });
      expect(ids).toBeInstanceOf(Int32Array);
      expect(await model.detokenize(ids)).toBe(text);
    },
  );

  it('text in many scripts comes out whole, whatever the pieces', async () => {
    const ids = await model.tokenize('日本語 🙂🙂 café', { addSpecialTokens: false });
    let text = '';
    const stream = model.tokenizer!.stream();
    for (const id of ids) {
      const piece = stream.push(id);
      expect(piece).not.toContain('\ufffd');
      text += piece;
    }
    expect(text + stream.end()).toBe('日本語 🙂🙂 café');
  });
});

describe('sequence', () => {
  it('feed, then generate: what is generated becomes part of it', async () => {
    const { promptIds, ids } = await model.complete(capital, { maxTokens: 6 });
    await using sequence = await model.sequence();
    expect(sequence.length).toBe(0);
    await sequence.feed(promptIds.slice(0, 10));
    await sequence.feed(promptIds.slice(10));
    const first = await sequence.generate({ maxTokens: 2 }).completion();
    expect(first.promptIds).toEqual(promptIds);
    const second = await sequence.generate({ maxTokens: 4 }).completion();
    expect([...first.ids, ...second.ids]).toEqual(ids);
    expect([...sequence.ids]).toEqual([...promptIds, ...ids]);
    expect(sequence.length).toBe(promptIds.length + ids.length);
  });

  it('goes on after it was fed more', async () => {
    const ids = someIds(40);
    const alone = await model.complete(ids, { maxTokens: 8, ignoreEos: true });
    await using sequence = await model.sequence();
    await sequence.feed(ids.subarray(0, 20));
    await sequence.generate({ maxTokens: 3 }).completion();
    await sequence.feed(Int32Array.of(5, 6, 7));
    expect((await sequence.generate({ maxTokens: 3 }).completion()).ids).toHaveLength(3);
    await using other = await model.sequence();
    await other.feed(ids);
    expect((await other.generate({ maxTokens: 8, ignoreEos: true }).completion()).ids).toEqual(alone.ids);
  });

  it('does one thing at a time', async () => {
    await using sequence = await model.sequence();
    const feeding = sequence.feed(someIds(50));
    expect((await errorOf(() => sequence.feed(someIds(1)))).code).toBe('INVALID_STATE');
    expect((await errorOf(() => sequence.save())).code).toBe('INVALID_STATE');
    expect((await errorOf(() => sequence.generate().completion())).code).toBe('INVALID_STATE');
    expect((await errorOf(() => sequence.dispose())).code).toBe('INVALID_STATE');
    await feeding;
    expect(sequence.length).toBe(50);
  });
});

describe('facts', () => {
  it('of a loaded model', async () => {
    const { info } = model;
    expect(info).toMatchObject({
      architecture: 'granitemoehybrid',
      format: 'gguf',
      path: tinyGguf,
      device: 'cpu',
      activations: 'fast',
      context: 512,
      vocab: 49152,
    });
    const { weights, activations, states, cache, prefixes, total } = info.memory;
    expect(total).toBe(weights + activations + states + cache + prefixes);
    expect(model.program.print()).toContain('flash_attention');
  });

  it('of a file: what inspect plans is what load takes', async () => {
    const report = await inspect(tinyGguf, { context: 512, sequences: 4 });
    const { path, architecture, layers, parameters, dtypes, memory, context } = report;
    expect({ path, architecture, context }).toEqual({ path: tinyGguf, architecture: 'granitemoehybrid', context: 512 });
    expect(layers).toHaveLength(10);
    expect(parameters).toBeGreaterThan(28e6);
    expect(Object.keys(dtypes).sort()).toEqual(['f32', 'q4_1', 'q8_0']);
    expect(memory.states).toBe(model.info.memory.states);
    expect(memory.cache).toBe(model.info.memory.cache);
    expect(memory.prefixes).toBe(model.info.memory.prefixes);
    expect(memory.activations).toBe(model.info.memory.activations);
    expect(await inspect(undefined, { context: 512, sequences: 4 })).toMatchObject({ parameters, memory });
  });

  it('of the machine and the package', () => {
    expect(devices()[0]).toMatchObject({ kind: 'cpu' });
    expect(version).toMatch(/^\d+\.\d+\.\d+/);
  });
});
