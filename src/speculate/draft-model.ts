import { CrosscurrentError, mismatch } from '../errors.js';
import type { Speculation, SpeculationTarget } from '../generate/speculation.js';
import { hostOf, type Model } from '../model.js';
import type { Tokenizer } from '../text/index.js';
import { ModelDrafter } from './model-drafter.js';

export interface DraftModelOptions {
  /**
   * Ids that it guesses: the first ones of the vocabulary, which are the frequent ones where ids follow the merges of the tokenizer. A small model's head is most of what it reads a token. Default:
   * 16384, or all where there are fewer.
   */
  vocab?: number;
}

/**
 * Drafts with a smaller model of the same vocabulary, which samples with the target's options and noise: where the two models agree on the
 * distribution, they draw the same token.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT when the generation starts and the tokenizers differ, saying where.
 * @see Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318; Zhao et al. 2025 (FR-Spec: a head of frequent tokens), arXiv:2502.14856
 */
export function draftModel(model: Model, options: DraftModelOptions = {}): Speculation {
  const { vocab } = options;
  if (vocab !== undefined && (!Number.isInteger(vocab) || vocab < 1))
    throw mismatch('INVALID_ARGUMENT', 'vocab', 'a positive integer', String(vocab));
  return async (target) => {
    checkSameVocabulary('draft model', model, target);
    return ModelDrafter.open(hostOf(model), { vocab }, target);
  };
}

/** @throws CrosscurrentError INVALID_ARGUMENT unless the ids of both mean the same. */
export function checkSameVocabulary(
  name: string,
  { info, tokenizer }: Pick<Model, 'tokenizer'> & { readonly info: { readonly vocab: number } },
  target: Pick<SpeculationTarget, 'vocab' | 'tokenizer'>,
): void {
  const differ = (what: string, expected: unknown, got: unknown): CrosscurrentError =>
    new CrosscurrentError(
      'INVALID_ARGUMENT',
      `${name}: expected ${what} ${String(expected)} as the target's, got ${String(got)}`,
      { operand: name, expected: `${what} ${String(expected)}`, got: String(got) },
    );
  if (info.vocab !== target.vocab) throw differ('a vocabulary of', target.vocab, info.vocab);
  const [a, b]: (Tokenizer | undefined)[] = [target.tokenizer, tokenizer];
  if (!a || !b || a === b) return;
  if (a.fingerprint !== b.fingerprint) throw differ('tokenizer', a.fingerprint, b.fingerprint);
}
