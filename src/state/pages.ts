import { CrosscurrentError } from '../errors.js';

/** Numbers of kv pages and who holds them: a page may be shared, and is free again when the last holder lets go. */
export class PagePool {
  readonly #references: Uint32Array;
  readonly #free: number[];

  constructor(pages: number) {
    this.#references = new Uint32Array(pages);
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
  }

  get size(): number {
    return this.#references.length;
  }

  get free(): number {
    return this.#free.length;
  }

  /** A free page; there must be one. The last to come back goes first: memory that was never touched stays so. */
  take(): number {
    const page = this.#free.pop();
    if (page === undefined) throw new CrosscurrentError('INTERNAL', 'kv pages: none is free');
    this.#references[page] = 1;
    return page;
  }

  holders(page: number): number {
    return this.#references[page] as number;
  }

  isShared(page: number): boolean {
    return this.holders(page) > 1;
  }

  share(page: number): void {
    if (this.holders(page) === 0) throw new CrosscurrentError('INTERNAL', `kv page ${page}: shared while free`);
    this.#references[page] = this.holders(page) + 1;
  }

  release(page: number): void {
    const left = this.holders(page) - 1;
    if (left < 0) throw new CrosscurrentError('INTERNAL', `kv page ${page}: released while free`);
    this.#references[page] = left;
    if (left === 0) this.#free.push(page);
  }
}
