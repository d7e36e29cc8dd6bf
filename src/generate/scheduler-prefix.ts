import type { Checkpoint } from '../state/checkpoint.js';
import type { PagePool } from '../state/pages.js';
import { PrefixCache, type PrefixNode } from '../state/prefix-cache.js';
import type { SequenceState } from '../state/sequence-state.js';
import type { Queued, SchedulerLimits, StepRunner, Task } from './task.js';

/** Shorter beginnings are not worth a checkpoint of their own. */
const leastCheckpointPages = 2;
/** Long prompts leave a checkpoint each time they have come so much further. */
const stridePages = 16;

/** Where pages alone are taken over. */
const noStates: Checkpoint = { bytes: 0, hold() {}, release() {} };

/** Lets sequences go on from the longest beginning that an earlier prompt has left, and leaves what they run for later ones. */
export class PrefixSharing {
  readonly cache: PrefixCache;
  readonly #runner: StepRunner;
  readonly #pool: PagePool;
  readonly #limits: SchedulerLimits;
  readonly #maxBytes: number;
  readonly #saves = new Set<Promise<void>>();
  /** Bytes of a checkpoint; 0 until one was made. */
  #checkpointBytes = 0;
  /** Without recurrent states: what makes native code take a slot for one that has run tokens. */
  #blank: Checkpoint | undefined;

  constructor(runner: StepRunner, pool: PagePool, limits: SchedulerLimits, maxBytes: number) {
    this.#runner = runner;
    this.#pool = pool;
    this.#limits = limits;
    this.#maxBytes = maxBytes;
    this.cache = new PrefixCache(pool, { pageTokens: limits.pageTokens, paged: limits.pages > 0, maxBytes });
  }

  get #isRecurrent(): boolean {
    return this.#limits.recurrent ?? true;
  }

  /** Tokens of the task that may come from the cache: those that were given, but not one whose logits are wanted. */
  #sharable({ state, target, sampler, onLogits }: Task): number {
    if (onLogits) return 0;
    return Math.min(state.decoded.first, sampler ? target - 1 : target);
  }

  /**
   * Takes over pages of the cache where they go further than the sequence has come. Returns the states that its slot then goes on from, of 0 bytes when
   * there are none, to be released by the caller; undefined when nothing was taken.
   */
  adopt({ task, started }: Queued): Checkpoint | undefined {
    if (!task.sharesPrefix && !started) return undefined;
    const { state } = task;
    const { pageTokens } = this.#limits;
    const first = state.processed;
    const sharable = this.#sharable(task);
    if (state.accepted.length > 0 || first % pageTokens !== 0 || sharable < first + pageTokens) return undefined;
    const found = this.cache.find(state, sharable);
    const longest = found.at(-1);
    if (!longest) return undefined;
    const last = this.#isRecurrent ? found.findLast(({ checkpoint }) => checkpoint !== undefined) : longest;
    if (last !== longest) state.splitAt = longest.depth * pageTokens;
    const resume = this.#isRecurrent ? last?.checkpoint : this.#blank;
    if (!last || !resume || last.depth * pageTokens <= first) return undefined;
    this.#takePages(state, found, last, first);
    this.cache.touch(last);
    state.trail = last;
    state.length = last.depth * pageTokens;
    const states = this.#isRecurrent || first === 0 ? resume : noStates;
    states.hold();
    return states;
  }

  /** Counts what was taken over, save by a task that had run it itself. */
  count({ task, preempted }: Queued, tokens: number): void {
    if (preempted) return;
    if ((task.cachedTokens ?? 0) === 0) this.cache.hits++;
    this.cache.hitTokens += tokens;
    task.cachedTokens = (task.cachedTokens ?? 0) + tokens;
  }

  #takePages(state: SequenceState, found: readonly PrefixNode[], last: PrefixNode, first: number): void {
    for (const { page, depth } of found) {
      if (depth > last.depth) break;
      if (page < 0 || depth * this.#limits.pageTokens <= first) continue;
      this.#pool.share(page);
      const own = state.pages[depth - 1];
      if (own !== undefined) this.#pool.release(own);
      state.pages[depth - 1] = page;
    }
  }

  /** Where the piece [first, end) of a prompt should end so that a checkpoint can be taken there. */
  cut(task: Task, first: number, end: number): number {
    if (!this.#keepsCheckpoints) return end;
    const places = this.#checkpointPlaces(task).filter((place) => place > first && place < end);
    return Math.min(end, ...places);
  }

  get #keepsCheckpoints(): boolean {
    return this.#isRecurrent && this.#checkpointBytes <= this.#maxBytes;
  }

  /** The last page border of the prompt, and where it is known to part from another. */
  #checkpointPlaces(task: Task): number[] {
    const { pageTokens } = this.#limits;
    const lastBorder = Math.floor(this.#sharable(task) / pageTokens) * pageTokens;
    return [lastBorder, task.state.splitAt].filter((place) => place >= leastCheckpointPages * pageTokens);
  }

  /** Leaves what a prompt has run so far, after a step of it. */
  leave(task: Task): void {
    const { state } = task;
    if (state.length > state.decoded.first) return;
    const node = this.cache.insert(state, state.length);
    if (!node) return;
    if (!this.#isRecurrent) {
      if (!this.#blank) this.#save(state, (blank) => this.#keepBlank(blank));
      return;
    }
    const isAtBorder = state.length === node.depth * this.#limits.pageTokens;
    const isPlace = node.depth % stridePages === 0 || this.#checkpointPlaces(task).includes(state.length);
    if (!isAtBorder || !isPlace || node.checkpoint || !this.#keepsCheckpoints) return;
    this.#save(state, (checkpoint) => {
      this.#checkpointBytes = checkpoint.bytes;
      this.cache.attach(node, checkpoint);
    });
  }

  #keepBlank(blank: Checkpoint): void {
    if (this.#blank) return;
    blank.hold();
    this.#blank = blank;
  }

  /** The call is made at once, before any step that comes after; one that fails leaves no checkpoint and harms nobody. */
  #save(state: SequenceState, use: (checkpoint: Checkpoint) => void): void {
    const saving = this.#runner
      .checkpoint(state.slot)
      .then((checkpoint) => {
        use(checkpoint);
        checkpoint.release();
      })
      .catch(() => {})
      .finally(() => this.#saves.delete(saving));
    this.#saves.add(saving);
  }

  /** Gives everything up, when nothing is being saved any more. */
  async dispose(): Promise<void> {
    await Promise.all(this.#saves);
    this.cache.clear();
    this.#blank?.release();
    this.#blank = undefined;
  }
}
