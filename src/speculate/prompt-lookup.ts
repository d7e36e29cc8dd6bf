import { mismatch } from '../errors.js';
import type { Draft, Drafter, Speculation } from '../generate/speculation.js';
import { SuffixAutomaton } from './suffix-automaton.js';

export interface PromptLookupOptions {
  /** Shortest run of tokens that counts as a match. Default: 2. */
  minMatch?: number;
}

/**
 * Drafts what followed the last time the sequence ended as it does now. Costs next to nothing, and pays where the output copies from
 * the prompt or from itself: summaries, edits, code.
 *
 * @see Saxena 2023, "Prompt lookup decoding"
 */
export function promptLookup(options: PromptLookupOptions = {}): Speculation {
  const minMatch = options.minMatch ?? 2;
  if (!Number.isInteger(minMatch) || minMatch < 1)
    throw mismatch('INVALID_ARGUMENT', 'minMatch', 'a positive integer', String(minMatch));
  return () => {
    const seen = new SuffixAutomaton();
    const drafter: Drafter = {
      propose({ ids, limit }): Draft {
        for (let i = seen.tokens.length; i < ids.length; i++) seen.push(ids[i] as number);
        const { length, end } = seen.longestMatch();
        return { ids: length < minMatch ? [] : ids.slice(end, end + limit) };
      },
    };
    return drafter;
  };
}
