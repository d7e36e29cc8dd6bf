import type { Checkpoint } from './checkpoint.js';
import type { PagePool } from './pages.js';
import type { SequenceState } from './sequence-state.js';

/** One page of tokens after the pages above it. */
export interface PrefixNode {
  readonly parent: PrefixNode | undefined;
  readonly key: number;
  /** The ids of its page: of two pages with one key, only the first to come is kept. */
  readonly ids: Int32Array;
  /** Pages from the start to the end of this one, of `tokens` tokens each. */
  readonly depth: number;
  readonly tokens: number;
  /** The kv page, held once by the cache; -1 in models without attention. */
  readonly page: number;
  readonly children: Map<number, PrefixNode>;
  /** The recurrent states after its last token. */
  checkpoint: Checkpoint | undefined;
  /** False when it was evicted. */
  kept: boolean;
}

export interface PrefixCacheStats {
  /** Requests that found a beginning of their prompt here, and how many tokens they did not have to run. */
  readonly hits: number;
  readonly tokens: number;
  /** Memory of checkpoints, and of the tree itself. */
  readonly bytes: number;
  /** Kv pages that it holds; those of them that nobody else holds are given up when a request needs room. */
  readonly pages: number;
  readonly checkpoints: number;
}

export interface PrefixCacheOptions {
  readonly pageTokens: number;
  /** Whether tokens have kv pages. */
  readonly paged: boolean;
  readonly maxBytes: number;
}

/** What a node takes beside its checkpoint, about. */
const nodeBytes = 512;

/**
 * Beginnings of prompts that have been run: a tree over pages of token ids. A node holds the kv page of its tokens and may hold a checkpoint of the recurrent states.
 *
 * Only tokens that were given, never those that the model chose: the two are run by different kinds of step. What is least recently used goes first, from the leaves.
 */
export class PrefixCache {
  hits = 0;
  hitTokens = 0;
  readonly #pool: PagePool;
  readonly #options: PrefixCacheOptions;
  readonly #root: PrefixNode;
  /** Least recently used first; a node is always used after those below it, so the first is a leaf. */
  readonly #nodes = new Set<PrefixNode>();
  #bytes = 0;
  #checkpoints = 0;

  constructor(pool: PagePool, options: PrefixCacheOptions) {
    this.#pool = pool;
    this.#options = options;
    this.#root = this.#node(undefined, 0, new Int32Array(0), -1);
  }

  get stats(): PrefixCacheStats {
    return {
      hits: this.hits,
      tokens: this.hitTokens,
      bytes: this.#bytes,
      pages: this.#options.paged ? this.#nodes.size : 0,
      checkpoints: this.#checkpoints,
    };
  }

  /** The kv pages that it holds. */
  get pages(): number[] {
    return [...this.#nodes].map(({ page }) => page).filter((page) => page >= 0);
  }

  /** Nodes of the sequence's first `tokens` tokens that are here, from its trail on. */
  find(state: SequenceState, tokens: number): PrefixNode[] {
    const found: PrefixNode[] = [];
    let node = this.#start(state, tokens);
    while ((node.depth + 1) * this.#options.pageTokens <= tokens) {
      const next = node.children.get(this.#key(state.ids, node.depth));
      if (!next || !this.#matches(next, state.ids)) break;
      found.push(next);
      node = next;
    }
    return found;
  }

  /** Keeps the pages that the sequence's first `tokens` tokens fill; all of them were given and are committed. Returns the node of the last one. */
  insert(state: SequenceState, tokens: number): PrefixNode | undefined {
    const { pageTokens, paged } = this.#options;
    let node = this.#start(state, tokens);
    while ((node.depth + 1) * pageTokens <= tokens) {
      const key = this.#key(state.ids, node.depth);
      let next = node.children.get(key);
      if (next && !this.#matches(next, state.ids)) break;
      if (!next) {
        const page = paged ? (state.pages[node.depth] as number) : -1;
        if (paged) this.#pool.share(page);
        const start = node.depth * pageTokens;
        next = this.#node(node, key, Int32Array.from(state.ids.slice(start, start + pageTokens)), page);
        node.children.set(key, next);
        this.#nodes.add(next);
        this.#bytes += nodeBytes;
      }
      node = next;
    }
    if (node === this.#root) return undefined;
    state.trail = node;
    this.touch(node);
    this.#fit();
    return node.kept ? node : undefined;
  }

  /** Marks a node and those above it as just used. */
  touch(node: PrefixNode): void {
    for (let each = node; each.parent; each = each.parent) {
      this.#nodes.delete(each);
      this.#nodes.add(each);
    }
  }

  /** Adds the recurrent states to a node and holds them, unless it went meanwhile. */
  attach(node: PrefixNode, checkpoint: Checkpoint): void {
    if (!node.kept || node.checkpoint || checkpoint.bytes > this.#options.maxBytes) return;
    checkpoint.hold();
    node.checkpoint = checkpoint;
    this.#bytes += checkpoint.bytes;
    this.#checkpoints++;
    this.#fit();
  }

  /** Frees up to `count` pages that nobody else holds; whether it freed any. */
  evictPages(count: number): boolean {
    const isOwn = ({ page }: PrefixNode): boolean => page >= 0 && !this.#pool.isShared(page);
    let freed = this.#evict(count, isOwn);
    // a sequence may share a page below one that it has a copy of: then that one is no leaf
    if (freed === 0 && [...this.#nodes].some(isOwn)) freed = this.#evict(count, () => true);
    return freed > 0;
  }

  clear(): void {
    while (this.#nodes.size > 0) for (const node of this.#nodes) if (node.children.size === 0) this.#remove(node);
  }

  /** Removes leaves that `goes` until `count` pages are free; how many became so. */
  #evict(count: number, goes: (leaf: PrefixNode) => boolean): number {
    const before = this.#pool.free;
    for (const node of this.#nodes) {
      if (this.#pool.free - before === count) break;
      if (node.children.size === 0 && goes(node)) this.#remove(node);
    }
    return this.#pool.free - before;
  }

  #fit(): void {
    for (const node of this.#nodes) {
      if (this.#bytes <= this.#options.maxBytes) return;
      if (node.children.size === 0) this.#remove(node);
    }
  }

  #remove(node: PrefixNode): void {
    node.kept = false;
    node.parent?.children.delete(node.key);
    this.#nodes.delete(node);
    this.#bytes -= nodeBytes;
    if (node.checkpoint) {
      this.#bytes -= node.checkpoint.bytes;
      this.#checkpoints--;
      node.checkpoint.release();
      node.checkpoint = undefined;
    }
    if (node.page >= 0) this.#pool.release(node.page);
  }

  #node(parent: PrefixNode | undefined, key: number, ids: Int32Array, page: number): PrefixNode {
    return {
      parent,
      key,
      ids,
      depth: parent ? parent.depth + 1 : 0,
      tokens: this.#options.pageTokens,
      page,
      children: new Map(),
      checkpoint: undefined,
      kept: true,
    };
  }

  #start({ trail }: SequenceState, tokens: number): PrefixNode {
    return trail?.kept && trail.depth * trail.tokens <= tokens ? trail : this.#root;
  }

  /** A hash of the ids of a page. */
  #key(ids: readonly number[], page: number): number {
    const { pageTokens } = this.#options;
    let hash = 0x811c9dc5;
    for (let i = page * pageTokens; i < (page + 1) * pageTokens; i++)
      hash = Math.imul(hash ^ (ids[i] as number) ^ (hash >>> 15), 0x85ebca6b);
    return hash;
  }

  #matches(node: PrefixNode, ids: readonly number[]): boolean {
    const start = (node.depth - 1) * this.#options.pageTokens;
    return node.ids.every((id, i) => id === ids[start + i]);
  }
}
