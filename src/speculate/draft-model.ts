import { CrosscurrentError } from '../errors.js';
import { Sampler } from '../generate/sampling.js';
import type { Scheduler } from '../generate/scheduler.js';
import type { Draft, Drafter, DraftRequest, Speculation, SpeculationTarget } from '../generate/speculation.js';
import { hostOf, type Model } from '../model.js';
import type { SequenceState } from '../state/sequence-state.js';
import type { Tokenizer } from '../text/index.js';

/**
 * Drafts with a smaller model of the same vocabulary, which samples with the target's options and noise: where the two models agree on the
 * distribution, they draw the same token.
 *
 * The draft model reads what was accepted into one sequence and guesses on a copy of it, so a wrong guess leaves no trace.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT when the tokenizers differ, saying where.
 * @see Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318
 */
export function draftModel(model: Model): Speculation {
  return async (target) => {
    await checkSameVocabulary(model, target);
    const { scheduler } = hostOf(model);
    const settled = await scheduler.open();
    try {
      return new ModelDrafter(scheduler, settled, await scheduler.open(), target, model.info.vocab);
    } catch (error) {
      scheduler.close(settled);
      throw error;
    }
  };
}

class ModelDrafter implements Drafter {
  readonly #scheduler: Scheduler;
  /** Has read the sequence up to its last token but one. */
  readonly #settled: SequenceState;
  /** Where guesses are made. */
  readonly #guess: SequenceState;
  readonly #sampler: Sampler;
  #work: Promise<unknown> = Promise.resolve();

  constructor(
    scheduler: Scheduler,
    settled: SequenceState,
    guess: SequenceState,
    target: SpeculationTarget,
    vocab: number,
  ) {
    this.#scheduler = scheduler;
    this.#settled = settled;
    this.#guess = guess;
    this.#sampler = new Sampler(target.sampling, vocab);
  }

  propose(request: DraftRequest): Promise<Draft> {
    const work = this.#draft(request);
    this.#work = work;
    return work;
  }

  async #draft({ ids, limit }: DraftRequest): Promise<Draft> {
    const room = Math.min(limit, this.#scheduler.limits.context - ids.length);
    if (room <= 0) return { ids: [] };
    const settled = this.#settled;
    for (let i = settled.ids.length; i < ids.length; i++) settled.ids.push(ids[i] as number);
    // the first guess comes with the step that reads what was accepted
    const draft: number[] = [];
    const onToken = (id: number): boolean => {
      draft.push(id);
      return false;
    };
    const target = ids.length;
    await this.#scheduler.run({ state: settled, target, capacity: target + 1, sampler: this.#sampler, onToken });
    settled.truncate(target);
    if (room === 1) return { ids: draft };
    await this.#scheduler.replace(this.#guess, settled);
    this.#guess.ids.push(draft[0] as number);
    await this.#scheduler.run({
      state: this.#guess,
      target: target + 1,
      capacity: target + room,
      sampler: this.#sampler,
      onToken: (id) => {
        draft.push(id);
        return true;
      },
    });
    return { ids: draft };
  }

  async dispose(): Promise<void> {
    await this.#work.catch(() => {});
    this.#scheduler.close(this.#settled);
    this.#scheduler.close(this.#guess);
  }
}

async function checkSameVocabulary(draft: Model, target: SpeculationTarget): Promise<void> {
  const differ = (what: string, expected: unknown, got: unknown): CrosscurrentError =>
    new CrosscurrentError(
      'INVALID_ARGUMENT',
      `draft model: expected ${what} ${String(expected)} as the target's, got ${String(got)}`,
      {
        operand: 'draft model',
        expected: `${what} ${String(expected)}`,
        got: String(got),
      },
    );
  if (draft.info.vocab !== target.vocab) throw differ('a vocabulary of', target.vocab, draft.info.vocab);
  const [a, b]: (Tokenizer | undefined)[] = [target.tokenizer, draft.tokenizer];
  if (!a || !b || a === b) return;
  if (a.fingerprint !== b.fingerprint) throw differ('tokenizer', a.fingerprint, b.fingerprint);
}
