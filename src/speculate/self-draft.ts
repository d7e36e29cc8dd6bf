import { CrosscurrentError, mismatch } from '../errors.js';
import { hostOfTarget, type Speculation } from '../generate/speculation.js';
import { ModelDrafter } from './model-drafter.js';

export interface SelfDraftOptions {
  /** Layers that draft: 1 up to all but one. */
  layers: number;
}

/**
 * Drafts with the first layers of the model itself, its last norm and its head: no second model, no further weights in memory, but states of its own, which are taken when it is first used
 * and given back with the model. How good its guesses are depends on the model: best on one that was trained to be left early.
 *
 * @throws CrosscurrentError INVALID_ARGUMENT; when the generation starts also for a model with fewer layers, OUT_OF_MEMORY where its states have no room.
 * @see Elhoushi et al. 2024 (LayerSkip), arXiv:2404.16710; Zhang et al. 2024 (Draft & Verify), arXiv:2309.08168
 */
export function selfDraft(options: SelfDraftOptions): Speculation {
  const layers = options?.layers;
  if (!Number.isInteger(layers) || layers < 1)
    throw mismatch('INVALID_ARGUMENT', 'layers', 'a positive integer', String(layers));
  return async (target) => {
    const host = hostOfTarget(target);
    if (!host) throw new CrosscurrentError('INVALID_ARGUMENT', 'selfDraft: needs the target that the generation gave');
    return ModelDrafter.open(host, { layers }, target);
  };
}
