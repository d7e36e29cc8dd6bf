// Draft trees, and the first layers of a model as its drafter: what they propose, what they need, and what they refuse.
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { DraftLength } from '../../src/generate/draft-length.js';
import {
  type BranchRequest,
  type Draft,
  type Drafter,
  draftModel,
  load,
  lookahead,
  promptLookup,
  type Speculation,
  type SpeculationTarget,
  selfDraft,
  tree,
} from '../../src/index.js';
import type { Model } from '../../src/model.js';
import { SuffixAutomaton } from '../../src/speculate/suffix-automaton.js';
import { granite, randomNumbers, randomTensors } from '../models/support.js';
import { withLength } from './support.js';

const vocab = 64;
const config = {
  ...granite,
  vocab_size: vocab,
  num_hidden_layers: 4,
  layer_types: ['mamba', 'attention', 'mamba', 'attention'],
};
const tensors = await randomTensors(config, 3);
const prompt = Int32Array.from({ length: 12 }, (_, i) => (i * 7 + 3) % vocab);
const loadRandom = (options = {}): Promise<Model> => load({ config, tensors }, { context: 96, ...options });

let model: Model;
let plain: readonly number[];
beforeAll(async () => {
  model = await loadRandom();
  plain = (await model.complete(prompt, { maxTokens: 24 })).ids;
});
afterAll(() => model.dispose());

const idsOf = async (speculate: Speculation): Promise<readonly number[]> =>
  (await model.complete(prompt, { maxTokens: 24, speculate })).ids;

const target = { vocab, context: 96, sampling: { seed: 1n }, tokenizer: undefined } as SpeculationTarget;

describe('tree', () => {
  /** Says that a token is followed by the next number with 0.6, the one after with 0.3; notes what it was asked. */
  const counting =
    (asked: BranchRequest[] = []): Speculation =>
    () => ({
      propose: () => ({ ids: [] }),
      branches: (request) => {
        asked.push(request);
        return request.nodes.map((node) => {
          const id = node < 0 ? (request.ids.at(-1) as number) : (request.draft.ids[node] as number);
          return [0.6, 0.3, 0.05].map((probability, i) => ({ id: (id + 1 + i) % vocab, probability }));
        });
      },
    });
  const propose = async (speculate: Speculation, limit: number): Promise<Draft> =>
    ((await speculate(target)) as Drafter).propose({ ids: [10], limit });

  it('takes the likeliest nodes, parents first', async () => {
    // 11: 0.6, 12 after it: 0.36, 12: 0.3, 13 after 12 after 11: 0.216, …
    expect(await propose(tree(counting(), { width: 2, depth: 3 }), 4)).toEqual({
      ids: [11, 12, 12, 13],
      parents: [-1, -1, 0, 2],
    });
    expect(await propose(tree(counting(), { width: 1, depth: 3 }), 8)).toEqual({
      ids: [11, 12, 13],
      parents: [-1, 0, 1],
    });
  });

  it('asks for a level at once, and for no more levels than can matter', async () => {
    const asked: BranchRequest[] = [];
    await propose(tree(counting(asked), { width: 2, depth: 4 }), 30);
    expect(asked.map(({ nodes }) => nodes.length)).toEqual([1, 2, 2, 2]);
    asked.length = 0;
    await propose(tree(counting(asked), { width: 2, depth: 4 }), 1);
    expect(asked.length).toBe(2);
  });

  it('keeps to the limit, the width and the depth, and is a tree', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 5 }),
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 1, max: 60 }),
        async (width, depth, limit) => {
          const { ids, parents = [] } = await propose(tree(counting(), { width, depth }), limit);
          expect(ids.length).toBeLessThanOrEqual(limit);
          const depths: number[] = [];
          parents.forEach((parent, i) => {
            expect(parent).toBeLessThan(i);
            depths.push(parent < 0 ? 1 : (depths[parent] as number) + 1);
            expect(parents.filter((other) => other === parent).length).toBeLessThanOrEqual(width);
          });
          expect(Math.max(0, ...depths)).toBeLessThanOrEqual(depth);
        },
      ),
      { numRuns: 100, seed: 5 },
    );
  });

  it('is right where the chain of the same drafter is wrong', async () => {
    // knows the next token, but thinks another likelier every other time
    const doubtful: Speculation = () => {
      const guesses = (position: number): number[] => {
        const right = plain[position - prompt.length] ?? 0;
        return position % 2 === 0 ? [right, (right + 1) % vocab] : [(right + 1) % vocab, right];
      };
      return {
        propose: ({ ids, limit }) => ({
          ids: Array.from({ length: limit }, (_, i) => guesses(ids.length + i)[0] as number),
        }),
        branches: ({ ids, draft: { parents = [] }, nodes }) =>
          nodes.map((node) => {
            let position = ids.length;
            for (let at = node; at >= 0; at = parents[at] as number) position++;
            return guesses(position).map((id, rank) => ({ id, probability: rank === 0 ? 0.55 : 0.45 }));
          }),
      };
    };
    const acceptedBy = async (speculate: Speculation): Promise<readonly [accepted: number, steps: number]> => {
      const { ids, stats } = await model.complete(prompt, { maxTokens: 24, speculate });
      expect(ids).toEqual(plain);
      return [stats.speculation?.accepted as number, stats.speculation?.steps as number];
    };
    const [chain] = await acceptedBy(withLength(doubtful, 3));
    const [grown, steps] = await acceptedBy(withLength(tree(doubtful, { width: 4, depth: 2 }), 6));
    expect(chain).toBeLessThan(grown);
    // all but the first token, three a step; near the end there is room for less than a tree
    expect(steps).toBeLessThanOrEqual(Math.ceil(23 / 3) + 1);
  });

  it.each([
    ['lookahead', () => lookahead()],
    ['one without branches()', () => () => ({ propose: () => ({ ids: [] }) })],
  ] as [string, () => Speculation][])('refuses %s', async (_, inner) => {
    await expect(idsOf(tree(inner()))).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', operand: 'tree: drafter' });
  });

  it.each([{ width: 0 }, { depth: 0 }, { width: 1.5 }, { depth: 1000 }, { width: '3' }])('refuses %o', (options) => {
    expect(() => tree(promptLookup(), options as object)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  it('refuses what is no drafter', () => {
    expect(() => tree('lookup' as unknown as Speculation)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });

  it.each([
    ['a probability of NaN', () => [[{ id: 1, probability: Number.NaN }]]],
    ['a probability above 1', () => [[{ id: 1, probability: 2 }]]],
    ['an id out of range', () => [[{ id: vocab, probability: 0.5 }]]],
    ['a branch that is none', () => [[undefined]]],
    ['a number', () => 5],
    [
      'a throw',
      () => {
        throw new Error('out of ideas');
      },
    ],
  ])('%s ends its generation alone', async (_, branches) => {
    const inner = (() => ({ length: 2, propose: () => ({ ids: [] }), branches })) as unknown as Speculation;
    const running = idsOf(tree(inner));
    const other = model.complete(prompt, { maxTokens: 24 });
    await expect(running).rejects.toMatchObject({ code: 'DRAFTER_ERROR' });
    expect((await other).ids).toEqual(plain);
  });

  it('more lists than nodes do no harm', async () => {
    const inner = (() => ({
      length: 3,
      propose: () => ({ ids: [] }),
      branches: () => Array.from({ length: 9 }, () => [{ id: 1, probability: 0.5 }]),
    })) as Speculation;
    expect(await idsOf(tree(inner))).toEqual(plain);
  });

  it('tells and disposes the drafter inside', async () => {
    const seen: string[] = [];
    const inner: Speculation = () => ({
      length: 1,
      propose: () => ({ ids: [] }),
      branches: () => [[{ id: 1, probability: 1 }]],
      observe: () => void seen.push('observe'),
      dispose: () => void seen.push('dispose'),
    });
    await model.complete(prompt, { maxTokens: 3, speculate: tree(inner) });
    expect(seen.filter((each) => each === 'observe').length).toBeGreaterThan(0);
    expect(seen.at(-1)).toBe('dispose');
  });
});

describe('DraftLength of trees', () => {
  it('expects of a tree what its depth gives', () => {
    // at each level one of three nodes is right, four levels of five: the same depth takes more nodes than a chain
    const levelsOf = (nodes: number): number[] =>
      Array.from({ length: nodes }, (_, i) => (i < 3 ? -1 : i - (i % 3) - 3));
    const lengths = { tree: new DraftLength(), chain: new DraftLength() };
    const drafted = { tree: 0, chain: 0 };
    const random = randomNumbers(4);
    for (let i = 0; i < 300; i++) {
      let right = 0;
      while (random() < 0.6 && right < 20) right++; // -1..1: four of five
      for (const shape of ['tree', 'chain'] as const) {
        const nodes = lengths[shape].next();
        drafted[shape] += nodes;
        lengths[shape].drafted(nodes, 0.2 * nodes);
        const ids = new Array<number>(nodes).fill(0);
        const draft = shape === 'tree' ? { ids, parents: levelsOf(nodes) } : { ids };
        const depth = shape === 'tree' ? Math.ceil(nodes / 3) : nodes;
        lengths[shape].settled(draft, Math.min(depth, right), 10 + 0.3 * nodes);
      }
    }
    expect(drafted.tree).toBeGreaterThan(1.3 * drafted.chain);
  });
});

describe('SuffixAutomaton.followers', () => {
  /** Tokens after earlier occurrences of ends of `tokens` and `path`, by the longest end that each comes after. */
  const slowly = (tokens: readonly number[], path: readonly number[], minLength: number): Map<number, number> => {
    const text = [...tokens, ...path];
    const found = new Map<number, number>();
    for (let length = text.length; length >= minLength; length--) {
      const end = text.slice(-length).join();
      for (let at = length; at < tokens.length; at++)
        if (tokens.slice(at - length, at).join() === end && !found.has(tokens[at] as number))
          found.set(tokens[at] as number, length);
    }
    return found;
  };

  it('finds what followed, after the longest ends first', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 1, maxLength: 30 }),
        fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 3 }),
        fc.integer({ min: 1, max: 3 }),
        (tokens, path, minLength) => {
          const automaton = new SuffixAutomaton();
          for (const token of tokens) automaton.push(token);
          const wanted = slowly(tokens, path, minLength);
          const followers = automaton.followers(path, minLength, 10);
          expect([...followers].sort()).toEqual([...wanted.keys()].sort());
          const lengths = followers.map((token) => wanted.get(token) as number);
          expect(lengths).toEqual([...lengths].sort((a, b) => b - a));
          expect(automaton.followers(path, minLength, 1)).toEqual(followers.slice(0, 1));
        },
      ),
      { numRuns: 500, seed: 2 },
    );
  });
});

describe('selfDraft', () => {
  it('with all layers but the last is right at times, and costs no weights', async () => {
    const { weights } = model.info.memory;
    const { ids, stats } = await model.complete(prompt, {
      maxTokens: 24,
      speculate: withLength(selfDraft({ layers: 3 }), 3),
    });
    expect(ids).toEqual(plain);
    expect(stats.speculation?.drafted).toBeGreaterThan(0);
    expect(model.info.memory.weights).toBe(weights);
  });

  it.each([[0], [-1], [1.5], [Number.NaN], ['3'], [undefined]])('refuses %s layers at once', (layers) => {
    expect(() => selfDraft({ layers } as { layers: number })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT', operand: 'layers' }),
    );
  });

  it.each([4, 5, 1000])('refuses %i of 4 layers when the generation starts', async (layers) => {
    await expect(idsOf(selfDraft({ layers }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/1\.\.3/),
    });
    expect(await idsOf(selfDraft({ layers: 2 }))).toEqual(plain);
  });

  it('refuses a target that no generation gave', async () => {
    await expect(async () => selfDraft({ layers: 1 })(target)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('its first layers say what the same layers say alone', async () => {
    const layers = 2;
    const shorter = { ...config, num_hidden_layers: layers, layer_types: config.layer_types.slice(0, layers) };
    await using alone = await load({ config: shorter, tensors }, { context: 96 });
    const drafted: number[] = [];
    const asked: Speculation = async (from) => {
      const inner = await selfDraft({ layers })(from);
      return {
        length: 5,
        async propose(request) {
          const draft = await inner.propose(request);
          if (drafted.length === 0) drafted.push(...draft.ids);
          return draft;
        },
        dispose: () => inner.dispose?.(),
      };
    };
    await model.complete(prompt, { maxTokens: 4, speculate: asked });
    const known = Int32Array.from([...prompt, plain[0] as number]);
    expect(drafted).toEqual((await alone.complete(known, { maxTokens: drafted.length })).ids);
  });

  it('ends with the model', async () => {
    const mortal = await loadRandom();
    await mortal.complete(prompt, { maxTokens: 4, speculate: selfDraft({ layers: 1 }) });
    const running = mortal.complete(prompt, { speculate: withLength(selfDraft({ layers: 1 }), 2) });
    const ended = expect(running).rejects.toMatchObject({ code: 'DISPOSED' });
    await new Promise((resolve) => setTimeout(resolve, 5));
    await mortal.dispose();
    await ended;
    await mortal.dispose();
  });
});

describe('places of a draft model', () => {
  it.each([1, 2, 3])('%i for six generations: nobody waits for them', async (sequences) => {
    await using few = await loadRandom({ sequences });
    for (const speculate of [draftModel(few), tree(draftModel(few))]) {
      const answers = await Promise.all(Array.from({ length: 6 }, () => idsOf(withLength(speculate, 3))));
      for (const ids of answers) expect(ids).toEqual(plain);
    }
  });

  it('a model that drafts for itself, full', async () => {
    await using few = await loadRandom({ sequences: 3 });
    for (const speculate of [draftModel(few), tree(draftModel(few)), selfDraft({ layers: 2 })]) {
      const options = { maxTokens: 24, speculate: withLength(speculate, 3) };
      const answers = await Promise.all(Array.from({ length: 8 }, () => few.complete(prompt, options)));
      for (const { ids } of answers) expect(ids).toEqual(plain);
    }
  });

  it('hardly any room in its cache', async () => {
    await using few = await loadRandom({ sequences: 3, context: 96, cacheTokens: 96 });
    for (const speculate of [draftModel(few), tree(draftModel(few))])
      expect((await few.complete(prompt, { maxTokens: 24, speculate: withLength(speculate, 6) })).ids).toEqual(plain);
  });

  it('a shorter context: drafts end with it', async () => {
    await using short = await loadRandom({ context: 24 });
    for (const speculate of [draftModel(short), tree(draftModel(short))])
      expect(await idsOf(withLength(speculate, 6))).toEqual(plain);
  });
});

it('a draft model with another tokenizer is refused, saying what differs', async () => {
  const other = { ...target, tokenizer: { fingerprint: 'one' } } as unknown as SpeculationTarget;
  const draft = { info: { vocab }, tokenizer: { fingerprint: 'two' } } as unknown as Model;
  await expect(async () => draftModel(draft)(other)).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    operand: 'draft model',
    expected: expect.stringContaining('one'),
    got: 'two',
  });
});
