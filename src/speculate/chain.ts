import type { Sampler } from '../generate/sampling.js';
import type { Scheduler } from '../generate/scheduler.js';
import type { SequenceState } from '../state/sequence-state.js';

/**
 * Two sequences of a model: one reads what was accepted, the other is made equal to it and goes on alone, so a wrong guess leaves no trace. For long chains cheaper than an `Evaluator`, whose
 * steps evaluate every guess again.
 */
export class Chain {
  readonly #scheduler: Scheduler;
  /** Has read the text up to its last token but one. */
  readonly #settled: SequenceState;
  /** Where guesses are made. */
  readonly #guess: SequenceState;
  readonly #sampler: Sampler;

  private constructor(scheduler: Scheduler, settled: SequenceState, guess: SequenceState, sampler: Sampler) {
    this.#scheduler = scheduler;
    this.#settled = settled;
    this.#guess = guess;
    this.#sampler = sampler;
  }

  static async open(scheduler: Scheduler, sampler: Sampler, signal: AbortSignal): Promise<Chain> {
    const settled = await scheduler.open(signal);
    try {
      return new Chain(scheduler, settled, await scheduler.open(signal), sampler);
    } catch (error) {
      scheduler.close(settled);
      throw error;
    }
  }

  /** `count` tokens that may follow `ids`, which begins with all that was given before. */
  async guess(ids: readonly number[], count: number): Promise<number[]> {
    const [settled, guess, sampler] = [this.#settled, this.#guess, this.#sampler];
    for (let i = settled.ids.length; i < ids.length; i++) settled.ids.push(ids[i] as number);
    // the first guess comes with the step that reads what was accepted
    const guesses: number[] = [];
    const onToken = (id: number): boolean => {
      guesses.push(id);
      return guesses.length > 1;
    };
    const target = ids.length;
    await this.#scheduler.run({ state: settled, target, capacity: target + 1, sampler, onToken });
    settled.truncate(target);
    if (count === 1) return guesses;
    await this.#scheduler.replace(guess, settled);
    guess.ids.push(guesses[0] as number);
    guess.decoded.add(target);
    await this.#scheduler.run({ state: guess, target: target + 1, capacity: target + count, sampler, onToken });
    return guesses;
  }

  close(): void {
    this.#scheduler.close(this.#settled);
    this.#scheduler.close(this.#guess);
  }
}
