// Tiny models of every architecture against the reference library: logits, the output of every layer, states, router choices and greedy
// tokens; and the same bits however the prompt is fed.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { fixtureNames } from '../support/models.js';
import type { GoldenTensor } from '../support/safetensors.js';
import { Fixture, fixtureFolder, maxAbs, missing, pageTokens, readGolden } from './support.js';

/** The library's own cached path differs from its full pass by up to 1e-4 in f32. */
const tolerance = 1e-3;
const greedyTokens = 16;

describe.skipIf(missing)(`parity with the reference library${missing ? ` (skipped: ${missing})` : ''}`, () => {
  describe.each(fixtureNames)('%s', (name) => {
    let fixture: Fixture;
    let golden: Map<string, GoldenTensor>;
    let prompt: Int32Array;
    /** Logits of the whole prompt in one step. */
    let whole: Float32Array;
    let vocab: number;

    const floats = (key: string): Float32Array => golden.get(key)?.data as Float32Array;

    beforeAll(async () => {
      golden = readGolden(name);
      prompt = golden.get('input_ids')?.data as Int32Array;
      fixture = await Fixture.open(`${fixtureFolder}${name}`);
      whole = await fixture.step('prefill', [{ slot: 0, ids: prompt }]);
      vocab = whole.length / prompt.length;
    });
    afterAll(() => fixture[Symbol.asyncDispose]());

    it('computes the logits, and the output of every layer', async () => {
      expect(maxAbs(whole, floats('logits')), 'logits').toBeLessThan(tolerance);
      const labels = [...golden.keys()].filter((key) => key.startsWith('hidden.') || key === 'final_norm');
      expect(labels.length).toBeGreaterThan(2);
      for (const label of labels)
        expect(maxAbs(await fixture.trace(label), floats(label)), label).toBeLessThan(tolerance);
    });

    it('chooses the experts', async () => {
      for (const [key, { data }] of golden) {
        const [, layer, what] = /^router\..*layers\.(\d+)\..*\.(ids|weights)$/.exec(key) ?? [];
        if (layer === undefined) continue;
        const traced = await fixture.trace(`layers.${layer}.router.${what}`);
        if (what === 'weights') expect(maxAbs(traced, data), key).toBeLessThan(tolerance);
        else expect(new Int32Array(traced.buffer, traced.byteOffset, traced.length), key).toEqual(data);
      }
    });

    it('leaves the states', async () => {
      const keys = [...golden.keys()].filter((key) => key.startsWith('state.'));
      expect(keys.length).toBeGreaterThan(0);
      for (const key of keys) {
        const [, layer, what] = key.split('.') as [string, string, string];
        const state = golden.get(key) as GoldenTensor;
        expect(
          maxAbs(await stateLike(fixture, layer, what, state, prompt.length), stateWanted(what, state)),
          key,
        ).toBeLessThan(tolerance);
      }
    });

    it.each([
      ['ragged pieces', 'prefill', [1, 7, 2, 13, 16, 9]],
      ['token by token', 'prefill', new Array<number>(48).fill(1)],
      ['token by token as generated ones are', 'decode', new Array<number>(48).fill(1)],
      ['a piece, then drafts that are accepted', 'decode', [5, 8, 8, 3, 8, 1, 1, 6, 8]],
    ] as const)('gives the same bits when fed in %s', async (_, kind, pieces) => {
      fixture.reset(1);
      let at = 0;
      for (const count of pieces) {
        const logits = await fixture.step(kind, [{ slot: 1, ids: prompt.subarray(at, at + count) }]);
        expect(logits, `tokens ${at}..${at + count}`).toEqual(whole.subarray(at * vocab, (at + count) * vocab));
        at += count;
      }
      expect(at).toBe(prompt.length);
    });

    it('gives the same bits beside seven sequences of other lengths', async () => {
      const lengths = [48, 1, 3, 31, 17, 40, 5, 47];
      const runs = lengths.map((length, slot) => ({ slot: slot + 1, ids: prompt.subarray(0, length) }));
      for (const { slot } of runs) fixture.reset(slot);
      const logits = await fixture.step('prefill', runs);
      let at = 0;
      for (const length of lengths) {
        expect(logits.subarray(at * vocab, (at + length) * vocab), `${length} tokens`).toEqual(
          whole.subarray(0, length * vocab),
        );
        at += length;
      }
      // each of the short ones goes on with its own next token
      const short = runs.filter(({ ids }) => ids.length < prompt.length);
      const next = await fixture.step(
        'decode',
        short.map(({ slot, ids }) => ({ slot, ids: prompt.subarray(ids.length, ids.length + 1) })),
      );
      short.forEach(({ ids }, i) => {
        const { length } = ids;
        expect(next.subarray(i * vocab, (i + 1) * vocab), `token ${length}`).toEqual(
          whole.subarray(length * vocab, (length + 1) * vocab),
        );
      });
    });

    it('continues greedily', async () => {
      fixture.reset(0);
      let logits = await fixture.step('prefill', [{ slot: 0, ids: prompt }]);
      const ids: number[] = [];
      while (true) {
        const row = logits.subarray(logits.length - vocab);
        const wanted = floats('greedy_logits').subarray(ids.length * vocab, (ids.length + 1) * vocab);
        expect(maxAbs(row, wanted), `logits of token ${ids.length}`).toBeLessThan(tolerance);
        ids.push(row.indexOf(Math.max(...row)));
        if (ids.length === greedyTokens) break;
        logits = await fixture.step('decode', [{ slot: 0, ids: Int32Array.of(ids.at(-1) as number) }]);
      }
      expect(Int32Array.from(ids)).toEqual(golden.get('greedy_ids')?.data);
    });
  });
});

// The reference limits the choice to some groups of experts, which these models leave out; where that changes nothing, the rest must agree.
describe.skipIf(missing)('experts of nemotron_h, for tokens whose choice is the same without groups', () => {
  it.each(['nemotron_h_moe', 'nemotron_h_latent_moe'])('%s', async (name) => {
    const golden = readGolden(name);
    await using fixture = await Fixture.open(`${fixtureFolder}${name}`, { topk_group: 2 });
    const ids = golden.get('input_ids')?.data as Int32Array;
    await fixture.step('prefill', [{ slot: 0, ids }]);
    const traced = await fixture.trace('layers.1.router.ids');
    const chosen = new Int32Array(traced.buffer, traced.byteOffset, traced.length);
    const wanted = golden.get('router.model.layers.1.mixer.experts.ids')?.data as Int32Array;
    const [got, hidden] = [await fixture.trace('hidden.2'), golden.get('hidden.2')?.data as Float32Array];
    const [topK, dim] = [chosen.length / ids.length, got.length / ids.length];
    const row = (all: Float32Array | Int32Array, i: number, width: number) => all.subarray(i * width, (i + 1) * width);
    const same = [...ids.keys()].filter((i) => maxAbs(row(chosen, i, topK), row(wanted, i, topK)) === 0);
    expect(same.length).toBeGreaterThan(0);
    for (const i of same) expect(maxAbs(row(got, i, dim), row(hidden, i, dim)), `token ${i}`).toBeLessThan(tolerance);
  });
});

const kinds: Readonly<Record<string, string>> = { k: 'kv', v: 'kv', conv: 'conv', recurrent: 'scan' };

/** A state of slot 0 in the order of the golden one. */
async function stateLike(
  fixture: Fixture,
  layer: string,
  what: string,
  golden: GoldenTensor,
  tokens: number,
): Promise<Float32Array> {
  const name =
    fixture.program.states.find((state) => state.name.includes(`layers.${layer}.`) && state.kind === kinds[what])
      ?.name ?? '';
  if (what === 'recurrent') return fixture.state(name, 0);
  if (what === 'conv') {
    const [, channels, kernel] = golden.shape as [number, number, number];
    const rows = await fixture.state(name, 0); // [kernel - 1, channels]
    return Float32Array.from({ length: rows.length }, (_, i) => {
      const [channel, column] = [Math.floor(i / (kernel - 1)), i % (kernel - 1)];
      return rows[column * channels + channel] as number;
    });
  }
  // a sliding window keeps only the last keys
  const [, heads, kept, headDim] = golden.shape as [number, number, number, number];
  const pages = await Promise.all(
    Array.from({ length: Math.ceil(tokens / pageTokens) }, (_, page) => fixture.state(name, 0, page)),
  );
  return Float32Array.from({ length: heads * kept * headDim }, (_, i) => {
    const head = Math.floor(i / (kept * headDim));
    const token = tokens - kept + (Math.floor(i / headDim) % kept);
    const [page, row, element] = [pages[Math.floor(token / pageTokens)], token % pageTokens, i % headDim];
    // a page, for each head: keys [head_dim, tokens], then values [tokens, head_dim]
    const start = head * 2 * pageTokens * headDim;
    const at = what === 'k' ? element * pageTokens + row : (pageTokens + row) * headDim + element;
    return page?.[start + at] as number;
  });
}

/** The library keeps one more column of a convolution than is needed. */
function stateWanted(what: string, { shape, data }: GoldenTensor): Float32Array {
  if (what !== 'conv') return data as Float32Array;
  const kernel = shape.at(-1) as number;
  return (data as Float32Array).filter((_, i) => i % kernel > 0);
}
