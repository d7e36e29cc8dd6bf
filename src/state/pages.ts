import { CrosscurrentError } from '../errors.js';

/** Numbers of kv pages and who holds them: a page may be shared by forks, and is free again when the last holder lets go. */
export class PagePool {
  readonly #references: Uint32Array;
  readonly #free: number[];
  #reserved = 0;

  constructor(pages: number) {
    this.#references = new Uint32Array(pages);
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
  }

  get size(): number {
    return this.#references.length;
  }

  /** Pages neither held nor promised. */
  get available(): number {
    return this.#free.length - this.#reserved;
  }

  /** Promises pages to a later `take`; false when there are not enough. */
  reserve(count: number): boolean {
    if (count > this.available) return false;
    this.#reserved += count;
    return true;
  }

  unreserve(count: number): void {
    this.#reserved -= count;
  }

  /** One page out of an earlier promise. */
  take(): number {
    const page = this.#free.pop();
    if (page === undefined) throw new CrosscurrentError('INTERNAL', 'kv pages: none left of those promised');
    this.#reserved--;
    this.#references[page] = 1;
    return page;
  }

  share(page: number): void {
    this.#references[page] = (this.#references[page] as number) + 1;
  }

  release(page: number): void {
    const left = (this.#references[page] as number) - 1;
    this.#references[page] = left;
    if (left === 0) this.#free.push(page);
  }
}
