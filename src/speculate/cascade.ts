import { CrosscurrentError, mismatch } from '../errors.js';
import { Generation, type GenerationHost, type Prepared } from '../generate/generation.js';
import type { Completion, GenerateOptions, Prompt } from '../generate/options.js';
import { Sampler } from '../generate/sampling.js';
import type { SpeculationStats } from '../generate/speculation.js';
import type { Task } from '../generate/task.js';
import { hostOf, type Model } from '../model.js';
import { turn } from '../turn.js';
import { type CascadeRule, cascadeRules, type Opinion, takesSmall } from './cascade-rules.js';
import { checkSameVocabulary } from './draft-model.js';
import { Evaluator, mostGuesses } from './evaluator.js';

export interface CascadeOptions {
  /** When the small model's token is taken. Default: `token`. */
  rule?: CascadeRule;
  /** How much worse than the large model's the small model's word may be: larger is faster, `-Infinity` gives the large model's own output, `Infinity` the small one's. */
  alpha: number;
  /** Tokens that the small model says before the large one is asked about all of them: changes the speed, never the output. Default: 4. */
  length?: number;
}

export type CascadeGenerateOptions = Omit<GenerateOptions, 'speculate'>;

/**
 * Two models that write together: each token is the small model's where a rule trusts it, else the large one's. Lossy by design: the output is neither model's own, but its quality for its time is
 * often better than either's.
 *
 * The small model runs ahead; the large one then looks at several tokens in one step. Which model a token is taken from depends on what both say at that place alone, so the output does not depend
 * on how far the small one runs ahead, and the same seed gives the same output.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT; when a generation starts also where the tokenizers differ, saying where.
 * @see Narasimhan et al. 2025, "Faster cascades via speculative decoding", arXiv:2405.19261
 */
export function cascade(small: Model, large: Model, options: CascadeOptions): Cascade {
  const { rule = 'token', alpha, length = 4 } = options ?? {};
  if (!cascadeRules.includes(rule))
    throw mismatch('INVALID_ARGUMENT', 'rule', `one of ${cascadeRules.join(', ')}`, String(rule));
  if (typeof alpha !== 'number' || Number.isNaN(alpha))
    throw mismatch('INVALID_ARGUMENT', 'alpha', 'a number', String(alpha));
  if (!Number.isInteger(length) || length < 1 || length > mostGuesses)
    throw mismatch('INVALID_ARGUMENT', 'length', `an integer, 1..${mostGuesses}`, String(length));
  return new Cascade(small, large, { rule, alpha, length });
}

/** What `cascade()` gives: generates as a model does. */
export class Cascade {
  readonly #small: Model;
  readonly #large: Model;
  readonly #options: Required<CascadeOptions>;

  /** @internal */
  constructor(small: Model, large: Model, options: Required<CascadeOptions>) {
    this.#small = small;
    this.#large = large;
    this.#options = options;
  }

  /** As `generate` of the large model, whose tokenizer and chat template are used. */
  generate(prompt: Prompt, options: CascadeGenerateOptions = {}): Generation {
    const large = hostOf(this.#large);
    return new Generation(large, options, async () => {
      const small = hostOf(this.#small);
      if ((options as GenerateOptions).speculate !== undefined)
        throw mismatch('INVALID_ARGUMENT', 'speculate', 'none: a cascade drafts with its small model', 'a drafter');
      checkSameVocabulary('small model', this.#small, large);
      const context = Math.min(small.scheduler.limits.context, large.scheduler.limits.context);
      const prepared = await large.prepare(prompt, options);
      const { length } = prepared.promptIds;
      if (length >= context) {
        prepared.release();
        throw mismatch('CONTEXT_OVERFLOW', 'prompt', `fewer than ${context} tokens (the smaller context)`, length);
      }
      const run = new CascadeRun(small, large, prepared, options, this.#options);
      return {
        ...prepared,
        context,
        run: (task, signal) => run.run(task, signal),
        speculation: () => run.stats,
      };
    });
  }

  /** The whole of what `generate` gives, with its statistics. */
  complete(prompt: Prompt, options: CascadeGenerateOptions = {}): Promise<Completion> {
    return this.generate(prompt, options).completion();
  }
}

/** Seed of noise that has nothing to do with that of `seed`. */
const otherSeed = (seed: bigint): bigint => seed ^ 0x9e3779b97f4a7c15n;

class CascadeRun {
  readonly #small: GenerationHost;
  readonly #large: GenerationHost;
  readonly #prepared: Prepared;
  readonly #sampling: CascadeGenerateOptions;
  readonly #options: Required<CascadeOptions>;
  #drafted = 0;
  #accepted = 0;
  #steps = 0;
  #deferred = 0;

  constructor(
    small: GenerationHost,
    large: GenerationHost,
    prepared: Prepared,
    sampling: CascadeGenerateOptions,
    options: Required<CascadeOptions>,
  ) {
    this.#small = small;
    this.#large = large;
    this.#prepared = prepared;
    this.#sampling = sampling;
    this.#options = options;
  }

  get stats(): SpeculationStats {
    return { drafted: this.#drafted, accepted: this.#accepted, steps: this.#steps, deferred: this.#deferred };
  }

  async run({ capacity, sampler, onToken }: Task, signal: AbortSignal): Promise<void> {
    const { rule, alpha } = this.#options;
    const { priority } = this.#sampling;
    const seed = (sampler as Sampler).seed;
    // the token rule draws again where it refuses a token: with the noise that made it refuse, what is drawn would not follow the large model's distribution
    const isSecondDraw = rule === 'token' && alpha >= 0;
    const largeSampler = new Sampler(
      { ...this.#sampling, seed: isSecondDraw ? otherSeed(seed) : seed },
      this.#large.vocab,
    );
    const large = new Evaluator(this.#large, this.#prepared.state, largeSampler, priority);
    const small = await Evaluator.open(this.#small, new Sampler({ ...this.#sampling, seed }, this.#small.vocab), {
      signal,
      priority,
    });
    try {
      const ids = [...this.#prepared.promptIds];
      let goesOn = true;
      while (goesOn) goesOn = await this.#round(ids, { small, large, capacity, signal, onToken });
    } finally {
      small.close();
    }
  }

  /** The small model says some tokens, the large one looks at all of them. Whether the generation goes on. */
  async #round(
    ids: number[],
    {
      small,
      large,
      capacity,
      signal,
      onToken,
    }: {
      small: Evaluator;
      large: Evaluator;
      capacity: number;
      signal: AbortSignal;
      onToken: Task['onToken'];
    },
  ): Promise<boolean> {
    const opinions = await this.#opinions(small, ids, Math.min(this.#options.length, capacity - ids.length), signal);
    const guesses = opinions.map(({ choice }) => choice);
    const { chosen, logits } = await large.evaluate(ids, { ids: guesses.slice(0, -1) }, { logits: true, signal });
    this.#steps++;
    this.#drafted += guesses.length;
    for (const [i, choice] of chosen.entries()) {
      const { vocab } = this.#large;
      const ofLarge = { choice, logits: logits.subarray(i * vocab, (i + 1) * vocab) };
      const id = this.#choose(opinions[i] as Opinion, ofLarge);
      ids.push(id);
      if (id === guesses[i]) this.#accepted++;
      if (!onToken?.(id) || ids.length >= capacity) return false;
      if (id !== guesses[i]) break;
      await turn(); // a row takes milliseconds where the vocabulary is large
    }
    return true;
  }

  async #opinions(
    small: Evaluator,
    ids: readonly number[],
    count: number,
    signal: AbortSignal,
  ): Promise<readonly Opinion[]> {
    const opinions: Opinion[] = [];
    const { vocab } = this.#small;
    while (opinions.length < count) {
      const at = opinions.length;
      const guesses = { ids: opinions.map(({ choice }) => choice) };
      const { chosen, logits } = await small.evaluate(ids, guesses, { logits: true, signal });
      if (chosen.length <= at) break;
      opinions.push({ choice: chosen[at] as number, logits: logits.subarray(at * vocab, (at + 1) * vocab) });
      if ((chosen[at] as number) < 0) break;
    }
    return opinions;
  }

  #choose(small: Opinion, large: Opinion): number {
    const { rule, alpha } = this.#options;
    const isSmall = takesSmall(rule, alpha, small, large, this.#sampling.temperature ?? 0);
    const { choice } = isSmall ? small : large;
    if (choice < 0)
      throw new CrosscurrentError(
        'INVALID_ARGUMENT',
        'logits: expected a token to choose, got NaN, or every token forbidden',
      );
    if (!isSmall) this.#deferred++;
    return choice;
  }
}
