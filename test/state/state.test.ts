// The parts of a sequence's state that stand for themselves: pages, which tokens were chosen, beginnings of prompts.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DecodedTokens } from '../../src/state/decoded-tokens.js';
import { PagePool } from '../../src/state/pages.js';
import { PrefixCache } from '../../src/state/prefix-cache.js';
import { SequenceState } from '../../src/state/sequence-state.js';

const pageTokens = 4;

describe('pages', () => {
  it('a page is free again when its last holder lets go', () => {
    const pool = new PagePool(2);
    const [a, b] = [pool.take(), pool.take()];
    expect(new Set([a, b])).toEqual(new Set([0, 1]));
    expect(() => pool.take()).toThrow(/none is free/);
    pool.share(a);
    pool.release(a);
    expect([pool.free, pool.isShared(a), pool.holders(a)]).toEqual([0, false, 1]);
    pool.release(a);
    expect(pool.take()).toBe(a);
    pool.release(b);
    expect(() => pool.release(b)).toThrow(/released while free/);
    expect(() => pool.share(b)).toThrow(/shared while free/);
  });
});

describe('chosen tokens', () => {
  it('are what a list of them says, whatever is added and forgotten', () => {
    const change = fc.oneof(
      fc.record({ kind: fc.constant('given' as const), count: fc.integer({ min: 1, max: 5 }) }),
      fc.record({ kind: fc.constant('chosen' as const), count: fc.integer({ min: 1, max: 5 }) }),
      fc.record({ kind: fc.constant('truncate' as const), count: fc.nat(12) }),
    );
    fc.assert(
      fc.property(fc.array(change, { maxLength: 40 }), (changes) => {
        const decoded = new DecodedTokens();
        const list: boolean[] = [];
        for (const { kind, count } of changes) {
          if (kind === 'truncate') {
            list.length = Math.max(list.length - count, 0);
            decoded.truncate(list.length);
          }
          for (let i = 0; kind !== 'truncate' && i < count; i++) {
            if (kind === 'chosen') decoded.add(list.length);
            list.push(kind === 'chosen');
          }
          const first = list.indexOf(true);
          expect(decoded.first).toBe(first < 0 ? Number.POSITIVE_INFINITY : first);
          list.forEach((isChosen, i) => {
            const { kind: got, end } = decoded.at(i);
            expect(got).toBe(isChosen ? 'decode' : 'prefill');
            expect(list.slice(i, end).every((other) => other === isChosen)).toBe(true);
            if (end < list.length) expect(list[end]).toBe(!isChosen);
          });
        }
      }),
      { seed: 7 },
    );
  });
});

describe('beginnings of prompts', () => {
  const open = (maxBytes = 1e6) => {
    const pool = new PagePool(12);
    const cache = new PrefixCache(pool, { pageTokens, paged: true, maxBytes });
    const sequence = (ids: readonly number[]): SequenceState => {
      const state = new SequenceState(0, pool, pageTokens);
      state.ids.push(...ids);
      state.grow(ids.length);
      state.length = ids.length;
      return state;
    };
    return { pool, cache, sequence };
  };
  const checkpointOf = (bytes: number) => {
    const checkpoint = { bytes, holders: 1, hold: () => checkpoint.holders++, release: () => checkpoint.holders-- };
    return checkpoint;
  };
  const ids = (length: number, salt = 0): number[] => Array.from({ length }, (_, i) => (i < 8 ? i : i + 100 * salt));

  it('finds the longest that is there, in whole pages', () => {
    const { cache, sequence } = open();
    const first = sequence(ids(14));
    expect(cache.insert(first, 14)?.depth).toBe(3);
    const found = (tokens: readonly number[], limit = tokens.length): number[] => {
      const state = new SequenceState(1, new PagePool(0), pageTokens);
      state.ids.push(...tokens);
      return cache.find(state, limit).map(({ page }) => page);
    };
    expect(found(ids(14))).toEqual(first.pages.slice(0, 3));
    expect(found(ids(14), 11)).toEqual(first.pages.slice(0, 2));
    expect(found(ids(30, 1))).toEqual(first.pages.slice(0, 2));
    expect(found(ids(3))).toEqual([]);
    expect(found([9, 9, 9, 9, 9])).toEqual([]);
  });

  it('gives up what is least recently used, leaves first, and only pages that nobody else holds', () => {
    const { pool, cache, sequence } = open();
    const [a, b] = [sequence(ids(16)), sequence(ids(16, 1))];
    for (const state of [a, b]) cache.insert(state, 16);
    // b had its own copy of the two pages that they have in common
    expect(cache.stats.pages).toBe(6);
    a.drop();
    expect(pool.free).toBe(4);
    expect(cache.evictPages(1)).toBe(true);
    expect([pool.free, cache.find(sequence(ids(16)), 16).length]).toEqual([5, 3]);
  });

  it('gives up a page above one that is shared', () => {
    const { pool, cache, sequence } = open();
    const [a, b] = [sequence(ids(16)), sequence(ids(16, 1))];
    for (const state of [a, b]) cache.insert(state, 16);
    a.drop();
    // what is left of a is evicted, then the two pages above those of b
    expect(cache.evictPages(2)).toBe(true);
    expect(cache.evictPages(2)).toBe(true);
    expect([pool.free, cache.stats.pages]).toEqual([8, 0]);
    expect(cache.evictPages(1)).toBe(false);
    b.drop();
    expect(pool.free).toBe(12);
  });

  it('keeps within its bytes', () => {
    const { pool, cache, sequence } = open(4000);
    const checkpoints: ReturnType<typeof checkpointOf>[] = [];
    for (let salt = 0; salt < 20; salt++) {
      const state = sequence(ids(16, salt));
      const node = cache.insert(state, 16);
      const checkpoint = checkpointOf(900);
      checkpoints.push(checkpoint);
      if (node) cache.attach(node, checkpoint);
      state.drop();
      expect(cache.stats.bytes).toBeLessThanOrEqual(4000);
    }
    expect(cache.stats.checkpoints).toBeGreaterThan(0);
    const node = cache.insert(sequence(ids(8, 50)), 8);
    cache.attach(node as NonNullable<typeof node>, checkpointOf(5000));
    expect(node?.checkpoint).toBeUndefined();
    expect(checkpoints.filter(({ holders }) => holders > 1).length).toBe(cache.stats.checkpoints);
    cache.clear();
    expect(checkpoints.every(({ holders }) => holders === 1)).toBe(true);
    expect(cache.stats).toMatchObject({ bytes: 0, pages: 0, checkpoints: 0 });
    expect(pool.free).toBe(12 - 2);
  });
});
