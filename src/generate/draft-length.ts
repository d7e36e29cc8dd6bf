import { type Draft, maxNodes } from './speculation.js';

/** Costs are means of the first steps, then of about the last seven. */
const smoothing = 0.15;
/** What acceptance is taken for before a token was tried, and how many tries that weighs. */
const priorAcceptance = 0.6;
const priorTries = 3;
/** What a try weighs less at each further one: about the last thirty count. */
const forgetting = 0.97;
/** Rounds without a draft before one token is tried, when drafting does not pay; doubled each time that it was wrong. */
const firstPause = 16;
const longestPause = 256;

/**
 * How many tokens to draft: the length that gives most tokens a millisecond, from the acceptance and the costs seen so far.
 *
 * With acceptance a, a chain of n drafted tokens gives (1 - a^(n+1)) / (1 - a) tokens (Leviathan et al. 2023, arXiv:2211.17192, eq. 1) and costs one plain step, n times what a further
 * node costs, and what drafting costs: something for itself, and something a token. A tree gives what the chain of its depth gives. When no length beats plain decoding, it pauses, ever longer.
 */
export class DraftLength {
  #right = priorAcceptance * priorTries;
  #tries = priorTries;
  readonly #plainMs = new Mean();
  readonly #nodeMs = new Mean();
  readonly #draftMs = new LineFit();
  /** Longest draft so far. */
  #longest = 0;
  /** Depth of drafts beside their tokens: 1 for chains. */
  readonly #slope = new Mean();
  #pause = 0;
  #nextPause = firstPause;
  /** The next draft is the one token after a pause. */
  #isTrial = false;
  /** The round before had a draft, so that the drafter has had nothing else to read. */
  #isUnderWay = false;

  next(): number {
    if (this.#pause > 0) {
      this.#isTrial = --this.#pause === 0;
      return this.#isTrial ? 1 : 0;
    }
    // the first step is a plain one: what it costs is what the others are compared with
    if (this.#plainMs.value === undefined) return 0;
    if (this.#nodeMs.value === undefined) return 1;
    const best = this.#best();
    if (best === 0) this.#rest();
    return best;
  }

  drafted(count: number, ms: number): void {
    if (count > 0 && this.#isUnderWay) this.#draftMs.add(count, ms);
  }

  settled(draft: Draft, accepted: number, stepMs: number): void {
    const nodes = draft.ids.length;
    this.#isUnderWay = nodes > 0;
    this.#longest = Math.max(this.#longest, nodes);
    if (nodes === 0) {
      this.#plainMs.add(stepMs);
      return;
    }
    this.#nodeMs.add(Math.max(stepMs - (this.#plainMs.value ?? stepMs), 0) / nodes);
    const depth = draft.parents ? depthOf(draft.parents) : nodes;
    this.#slope.add(depth / nodes);
    if (this.#isTrial) {
      this.#isTrial = false;
      if (accepted === 0) {
        this.#rest();
        return;
      }
      // times have changed: what was learnt before no longer counts
      this.#nextPause = firstPause;
      [this.#right, this.#tries] = [priorAcceptance * priorTries, priorTries];
    }
    // each accepted token is a success; the token that stopped the run, if there was one, a failure
    for (let i = 0; i < accepted; i++) this.#tried(1);
    if (accepted < depth) this.#tried(0);
  }

  #tried(right: number): void {
    this.#right = forgetting * this.#right + right;
    this.#tries = forgetting * this.#tries + 1;
  }

  #rest(): void {
    this.#pause = this.#nextPause;
    this.#nextPause = Math.min(this.#nextPause * 2, longestPause);
  }

  #best(): number {
    const [plainMs = 0, nodeMs = 0] = [this.#plainMs.value, this.#nodeMs.value];
    const a = Math.min(this.#right / this.#tries, 0.999);
    let [best, bestRate] = [0, 1 / plainMs];
    // twice what was tried: what is not known yet is not taken for free
    for (let n = 1; n < Math.min(maxNodes, 2 * this.#longest + 1); n++) {
      const depth = Math.max(n * (this.#slope.value ?? 1), 1);
      const rate = (1 - a ** (depth + 1)) / (1 - a) / (plainMs + n * nodeMs + this.#draftMs.at(n));
      if (rate > bestRate) [best, bestRate] = [n, rate];
    }
    return best;
  }
}

class Mean {
  value: number | undefined;
  #count = 0;

  add(seen: number): void {
    this.value = (this.value ?? 0) + Math.max(smoothing, 1 / ++this.#count) * (seen - (this.value ?? 0));
  }
}

/** y = offset + slope x, neither below zero, by least squares over about the last twenty points. */
class LineFit {
  #n = 0;
  #x = 0;
  #y = 0;
  #xx = 0;
  #xy = 0;

  add(x: number, y: number): void {
    const keep = 0.95;
    this.#n = keep * this.#n + 1;
    this.#x = keep * this.#x + x;
    this.#y = keep * this.#y + y;
    this.#xx = keep * this.#xx + x * x;
    this.#xy = keep * this.#xy + x * y;
  }

  at(x: number): number {
    if (this.#n === 0) return 0;
    const [meanX, meanY] = [this.#x / this.#n, this.#y / this.#n];
    const variance = this.#xx / this.#n - meanX ** 2;
    // all of one length: as if nothing went into the draft itself
    const slope = variance > 1e-3 ? (this.#xy / this.#n - meanX * meanY) / variance : meanY / meanX;
    const within = Math.min(Math.max(slope, 0), meanY / meanX);
    return meanY + within * (x - meanX);
  }
}

function depthOf(parents: readonly number[]): number {
  const depths: number[] = [];
  for (const parent of parents) depths.push(parent < 0 ? 1 : (depths[parent] as number) + 1);
  return Math.max(0, ...depths);
}
